"""A-GEM (Chaudhry et al., 2019): a step may not raise the loss on the memory, to first order.

Trained: the job's adapter and the head. Remembered: the exemplars of the job's memory. The gradient
is projected before the optimiser takes it, so the promise holds for a step of SGD; an optimiser
with momentum or per-element scaling only starts from the projected gradient. Differs from the
paper: where the stream has tasks, rows enter the memory when their task ends; exemplars are of the
job's policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.adapters.base import Tensors
from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput
from lamina.descent import inner, plus
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class AGEM(Strategy):
    """Cross-entropy on the batch; its gradient is projected where the memory's speaks
    against it."""

    replay_size: int = 64
    """Exemplars whose mean gradient is the reference g_ref."""

    family = "replay"
    paper = "Efficient Lifelong Learning with A-GEM"
    year = 2019
    answers = ("classes", "tokens")
    scenarios = (*Strategy.scenarios, "task_free")
    needs_memory = True
    from_second_task = ("replay_size",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["replay_size"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y) on the batch; the reference is the same loss on exemplars."""
        loss = cross_entropy(model(batch.inputs).logits, batch.labels)
        exemplars = replay.draw(self.replay_size)
        if exemplars is None:
            return StepOutput(loss)
        reference = cross_entropy(model(exemplars.inputs).logits, exemplars.labels)
        return StepOutput(loss, references=[reference])

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """Where g . g_ref < 0: g - (g . g_ref / g_ref . g_ref) g_ref (eq. 11); else g."""
        return projected(gradients, references[0]) if references else gradients


def projected(gradients: Tensors, reference: Tensors) -> Tensors:
    """The nearest gradient that does not descend against the reference."""
    agreement = inner(gradients, reference)
    if agreement >= 0:
        return gradients
    return plus(gradients, [reference], [-float(agreement / inner(reference, reference))])
