"""Finetune (sequential fine-tuning): one shared adapter and head, trained on each task in turn.

Trained: the job's adapter (SeqLoRA with `lora`; `linear_probe` has none) and the head.
Remembered: nothing. The lower bound: whatever a method adds must beat it.
"""

from dataclasses import dataclass

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, StepOutput
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class Finetune(Strategy):
    """Cross-entropy over all classes seen so far."""

    family = "baseline"
    paper = (
        "An Empirical Investigation of Catastrophic Forgetting in Gradient-Based Neural Networks"
    )
    year = 2013
    answers = ("classes", "tokens")
    scenarios = (*Strategy.scenarios, "task_free")

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y)."""
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels))
