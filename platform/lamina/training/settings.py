"""How a task is trained: passes, batches, optimiser. Torch is imported where something is made of
the settings, so that a job is read without it."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lamina.registry import InputError, Where

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LambdaLR

DRIFTS: tuple[str, ...] = ("class_incremental", "domain_incremental")
"""Scenarios in which what is said of a new task's rows before it is learned can be asked."""


@dataclass(frozen=True)
class TrainingSettings:
    """The same for every task; the optimiser starts anew with each, as the field's code does."""

    epochs: int = 1
    """Passes over a task's training part."""
    batch_size: int = 32
    """Rows of a step, exemplars not counted."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """PyTorch's; `sgd` with momentum."""
    learning_rate: float = 1e-3
    """At the start of each task."""
    weight_decay: float = 0.0
    """PyTorch's, decoupled for `adamw`."""
    momentum: float = 0.9
    """Of `sgd`."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the learning rate falls to zero over a task's steps."""
    max_grad_norm: float | None = None
    """Gradients are scaled down to this norm, over all trained tensors together. Default: never."""
    class_weights: Literal["balanced"] | None = None
    """What a row's cross-entropy is multiplied by: `balanced`, N / (k N_c) for a task with N
    training rows of k classes, N_c of the row's own (scikit-learn's); 1 for a replayed row of a
    class that the task does not have. Default: 1 for every row."""
    measure: str | None = None
    """What R is of: `accuracy` of classes; of answers in tokens `exact_match`, `slot_f1` (of
    calls), `rouge_l`, `bleu`, `chrf`, `token_accuracy` or `perplexity`. Default: `accuracy`, or
    `exact_match`, or of plain texts `perplexity`."""
    max_new_tokens: int = 64
    """Tokens of an answer that is generated, at most: for measures that read texts, and for what
    the bundle is asked where nobody says how many."""
    evaluation_batch_size: int = 256
    """Rows of a forward without gradient: in evaluation, previews and reviews. It changes no
    result."""

    anytime_every: int | None = None
    """Training rows between two evaluations in the middle of the stream, for the anytime accuracy.
    Default: none, as each costs as much as one at the end of a task."""
    learning_curve_batches: int = 0
    """b, batches at the start of a task after each of which the task is evaluated, for the learning
    curve area LCA_b."""
    drift: bool = False
    """Whether each task's validation rows are answered once more, before it is learned, for the
    drift that learning it causes (`drift/kl`). Where answers are tokens: once more by the frozen
    model, which it is held against."""
    general: bool = False
    """Whether what a language model says to prompts that have nothing to do with the stream is held
    against the frozen model's answers after each task (`general/kl`, `general/perplexity`)."""

    matters_when: ClassVar[dict[str, Where]] = {"momentum": Where("optimizer", "sgd")}

    def __post_init__(self) -> None:
        if self.learning_curve_batches < 0:
            raise InputError(
                f"training.learning_curve_batches: {self.learning_curve_batches} is negative"
            )
        if self.anytime_every is not None and self.anytime_every < 1:
            raise InputError(f"training.anytime_every: {self.anytime_every} is not positive")
        for name in ("epochs", "batch_size", "evaluation_batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"training.{name}: {getattr(self, name)} is not positive")
        if not self.learning_rate > 0:
            raise InputError(f"training.learning_rate: {self.learning_rate} is not positive")
        if self.weight_decay < 0:
            raise InputError(f"training.weight_decay: {self.weight_decay} is negative")
        if not 0 <= self.momentum < 1:
            raise InputError(f"training.momentum: {self.momentum} is not in [0, 1)")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise InputError(f"training.max_grad_norm: {self.max_grad_norm} is not positive")


def make_optimizer(
    settings: TrainingSettings, groups: Iterable[dict[str, Any]]
) -> "torch.optim.Optimizer":
    """A new optimiser over the given groups of tensors, as PyTorch takes them."""
    import torch

    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, rate, settings.momentum, weight_decay=decay)
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, rate, weight_decay=decay)
    return torch.optim.AdamW(groups, rate, weight_decay=decay)


def make_schedule(
    settings: TrainingSettings, optimizer: "torch.optim.Optimizer", num_steps: int
) -> "LambdaLR":
    """The learning rate of each of `num_steps` steps, as a factor of the first."""
    from torch.optim.lr_scheduler import LambdaLR

    factors = {
        "constant": lambda step: 1.0,  # noqa: ARG005
        "linear": lambda step: 1.0 - step / num_steps,
        "cosine": lambda step: (1.0 + math.cos(math.pi * step / num_steps)) / 2.0,
    }
    return LambdaLR(optimizer, [factors[settings.schedule]] * len(optimizer.param_groups))
