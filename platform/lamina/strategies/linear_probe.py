"""Linear probe (Alain and Bengio, 2016): the head alone, trained on the features of the frozen
backbone.

Trained: the head, over all classes seen so far. Remembered: nothing. What the backbone knows
without being adapted; it forgets as the head's old rows are pushed down by new ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, StepOutput, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import NO_ADAPTER, Strategy


@dataclass
class LinearProbe(Strategy):
    """Cross-entropy over all classes seen so far, of which the gradient meets the head only."""

    family = "baseline"
    paper = "Understanding intermediate layers using linear classifier probes"
    year = 2016
    classes_only = "it trains the head of classes, and nothing else"
    scenarios = (*Strategy.scenarios, "task_free")
    adapters = (NO_ADAPTER,)

    def setup(self, model: AdaptedModel) -> None:
        """No adapter."""

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(W f(x) + b, y), f frozen."""
        logits = self.predict(model, batch.inputs, batch.task)
        return StepOutput(cross_entropy(logits, batch.labels))

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """W f(x) + b."""
        return model.logits(model.frozen_features(inputs))
