"""ER (Chaudhry et al., 2019): experience replay, each batch is joined by exemplars of earlier
tasks.

Trained: the job's adapter and the head. Remembered: the exemplars of the job's memory. Differs from
the paper: where the stream has tasks, rows enter the memory when their task ends, so that a task is
never replayed to itself; in a task-free stream, and with `memory: {entry: as_they_pass}`, they
enter as they pass, as in the paper.
"""

from dataclasses import dataclass

from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class ER(Strategy):
    """Cross-entropy on the union of the batch and a draw from the memory."""

    replay_size: int = 32
    """Exemplars that join each batch."""

    family = "replay"
    paper = "On Tiny Episodic Memories in Continual Learning"
    year = 2019
    answers = ("classes", "tokens")
    scenarios = (*Strategy.scenarios, "task_free")
    needs_memory = True
    from_second_task = ("replay_size",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["replay_size"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y) over (x, y) in batch and memory draw alike."""
        exemplars = replay.draw(self.replay_size)
        if exemplars is not None:
            batch = Batch.cat([batch, exemplars])
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels), rows=batch)
