"""ER-ACE (Caccia et al., 2022): replay with an asymmetric cross-entropy, under which new rows do
not push old classes away.

Trained: the job's adapter and the head. Remembered: the exemplars of the job's memory. The batch's
cross-entropy is over the classes that occur in it, the exemplars' over all classes. Rows enter the
memory as they pass, also where the stream has tasks: only so do a task's new classes meet old ones.
Differs from the authors' code: the head is linear (there a cosine classifier of scale 10), and the
exemplars' softmax is over the classes seen so far (there over all of the stream's).
"""

from dataclasses import dataclass

from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class ERACE(Strategy):
    """Cross-entropy of the batch among its own classes, and of exemplars among all."""

    replay_size: int = 32
    """Exemplars drawn for each batch."""

    family = "replay"
    paper = "New Insights on Reducing Abrupt Representation Change in Online Continual Learning"
    year = 2022
    classes_only = "it compares the classes that occur in a batch"
    scenarios = (*Strategy.scenarios, "task_free")
    needs_memory = True
    entry = "as_they_pass"
    from_second_task = ("replay_size",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["replay_size"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y; classes of the batch) + CE(f(x_m), y_m; all classes); until there are
        exemplars, CE over all classes, as in the authors' code."""
        logits = model(batch.inputs).logits
        exemplars = replay.draw(self.replay_size)
        if exemplars is None:
            return StepOutput(cross_entropy(logits, batch.labels))
        incoming = cross_entropy(logits, batch.labels, classes=batch.classes())
        replayed = cross_entropy(model(exemplars.inputs).logits, exemplars.labels)
        return StepOutput(incoming + replayed, {"replayed": replayed.detach()})
