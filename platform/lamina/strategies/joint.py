"""Joint (multi-task training): the bound above, all tasks' data at once, after the last task has
arrived.

Trained: the job's adapter and the head, once. Remembered: everything. Earlier rows of the accuracy
matrix stay undefined, and so does forgetting.
"""

from dataclasses import dataclass

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, StepOutput
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class Joint(Strategy):
    """Cross-entropy over all classes of the stream, on the union of its tasks."""

    family = "baseline"
    paper = "Multitask Learning"
    year = 1997
    answers = ("classes", "tokens")
    data = "all"

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y)."""
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels))
