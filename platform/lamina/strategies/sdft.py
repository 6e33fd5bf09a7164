"""SDFT (Shenfeld et al., 2026): self-distillation, the model answers by itself, and learns to say
what it would have said with the right answer as an example before its eyes.

Trained: the job's adapter. Remembered: the teacher, a slow average of it. Each row is answered by
the student; of each token that it says, the student's distribution is drawn to the teacher's, which
has read the demonstration too. No right answer is ever a target, so the model learns on what it
says itself. Differs from the authors' code in what is not told by the paper: the words around the
demonstration are settings; the divergence is over the whole vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters import kind_names
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.adapters.written_rows import check_decoder_alone
from lamina.backbones.decoding import Drawn
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, generator_of
from lamina.losses import answered
from lamina.memory.memory import Replay
from lamina.memory.token_rows import Pair, put_together, said_in, taken_apart
from lamina.strategies.base import Strategy

TEACHER = "teacher"


@dataclass
class SDFT(Strategy):
    """Reverse KL to a teacher that knows the answer, on what the student says."""

    decay: float = 0.99
    """What the teacher keeps of itself in a step."""
    temperature: float = 1.0
    """Of the student's own answers; 0 takes the likeliest token."""
    longest: int = 64
    """Tokens of such an answer, at most."""
    before: str = "\nThis is an example of a response to the question:\n"
    """What stands between the question and the demonstration."""
    after: str = "\nNow answer with a response of your own.\n"
    """What stands behind the demonstration; the question follows again."""

    family = "regularisation"
    paper = "Self-Distillation Enables Continual Learning"
    year = 2026
    answers = ("tokens",)
    adapters = tuple(kind_names())

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["temperature"],
            positive=["longest"],
            share=["decay"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The student, and the teacher as its copy. Raises InputError for a model with an
        encoder."""
        check_decoder_alone(model, "sdft")
        model.add()
        model.copy(MAIN, TEACHER)
        self.state["num_steps"] = 0

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = mean over the tokens of y ~ p(. | x) of KL(p(. | x, y_<) || p_teacher(. | x, y*,
        y_<))."""
        said = self.rollouts(model, batch.inputs)
        longest = model.backbone.inputs.max_length
        asked = taken_apart(batch)
        alone = [(prompt, own) for (prompt, _), own in zip(asked, said, strict=True)]
        shown = [(self.shown(model, pair), own) for pair, own in zip(asked, said, strict=True)]
        student, taught = put_together(alone, longest), put_together(shown, longest)
        logits = model(student.inputs).logits
        with torch.no_grad():
            wanted = model(taught.inputs, adapters=[TEACHER]).logits
        loss = reverse_kl(*(answered(each, student.labels) for each in (logits, wanted)))
        return StepOutput(loss)

    @torch.no_grad()
    def rollouts(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """What the student says to each prompt, with its end token where that comes."""
        choose = None
        if self.temperature > 0:
            generator = generator_of(model.seed, "sdft", self.state["num_steps"])
            choose = Drawn(generator, temperature=self.temperature)
        return said_in(model.generate(inputs, self.longest, choose=choose))

    def shown(self, model: AdaptedModel, pair: Pair) -> Tensor:
        """The teacher's prompt: the question, and the right answer as an example."""
        question, answer = pair
        before, after = (
            question.new_tensor(model.backbone.inputs.tokens_of(text))
            for text in (self.before, self.after)
        )
        return torch.cat([question, before, answer[:-1], after])

    @torch.no_grad()
    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """theta_teacher <- a theta_teacher + (1 - a) theta."""
        self.state["num_steps"] += 1
        student = model.adapters[MAIN].tensors
        for name, tensor in model.adapters[TEACHER].tensors.items():
            tensor.lerp_(student[name], 1 - self.decay)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over rows of KL(softmax(student) || softmax(teacher)), of logits [M, V]."""
    own, other = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    return (own.exp() * (own - other)).sum(dim=1).mean()
