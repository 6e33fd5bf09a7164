"""Calls of a backbone: what goes into one, what comes out, and who runs the calls of several."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lamina.backbones.decoding import Choice
from lamina.backbones.overlay import Overlay


@dataclass(frozen=True)
class Hidden:
    """What a backbone says of N inputs."""

    features: Tensor
    """float32 [N, dim]: the tokens pooled, prompts left out."""
    prompts: Tensor | None
    """float32 [N, dim]: the mean over the prompts' output tokens, where there are prompts."""
    answers: Tensor | None = None
    """float32 [N, A, dim]: the tokens from which each token of the answer is predicted, where
    answers are tokens. What follows a shorter answer is of no account."""
    said: Tensor | None = None
    """int64 [N, L]: the tokens that were generated behind the prompts, where that was asked for."""


@dataclass(frozen=True)
class Call:
    """N inputs under an overlay."""

    inputs: Mapping[str, Tensor]
    overlay: Overlay
    most: int = 0
    """How many tokens may be generated behind the prompts; 0: the inputs are read and no more."""
    choose: Choice | None = None
    """How the next token is chosen; None: the likeliest."""
    limits: Tensor | None = None
    """int64 [N], the same as `most` of each row, where rows may say different numbers of tokens."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(next(iter(self.inputs.values())))

    def most_of_rows(self) -> Tensor:
        """How many tokens each row may say, int64 [N] on the device of the inputs."""
        if self.limits is not None:
            return self.limits
        first = next(iter(self.inputs.values()))
        return first.new_full((self.num_rows,), self.most, dtype=torch.int64)


class Gate(Protocol):
    """Who runs the calls of several callers."""

    def run(self, call: Call) -> Hidden:
        """As `Backbone.run`."""
        ...

    def gradients(
        self, loss: Tensor, tensors: Sequence[Tensor], keep: bool
    ) -> Sequence[Tensor | None]:
        """As `Backbone.gradients`."""
        ...
