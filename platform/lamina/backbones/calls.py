"""Calls of a backbone: their input, their output, and the interface for running calls of several
callers together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lamina.backbones.decoding import Choice
from lamina.backbones.overlay import Overlay


@dataclass(frozen=True)
class Hidden:
    """The output of a backbone for N inputs."""

    features: Tensor
    """float32 [N, dim]: the pooled tokens of each input, without prompts."""
    prompts: Tensor | None
    """float32 [N, dim]: the mean over the prompts' output tokens, where there are prompts."""
    answers: Tensor | None = None
    """float32 [N, A, dim]: the hidden states from which each token of the answer is predicted,
    where answers are tokens. Those behind a shorter answer mean nothing."""
    generated: Tensor | None = None
    """int64 [N, L]: the tokens generated behind the prompts, where the call asks for some."""


@dataclass(frozen=True)
class Call:
    """N inputs under an overlay."""

    inputs: Mapping[str, Tensor]
    overlay: Overlay
    max_new_tokens: int = 0
    """How many tokens may be generated behind each prompt; 0: none, the inputs are only read."""
    choose: Choice | None = None
    """How the next token is chosen; None: the likeliest."""
    limits: Tensor | None = None
    """int64 [N]: `max_new_tokens` for each row, where it differs between rows."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(next(iter(self.inputs.values())))

    def max_new_tokens_of_rows(self) -> Tensor:
        """How many tokens may be generated for each row, int64 [N] on the device of the inputs."""
        if self.limits is not None:
            return self.limits
        first = next(iter(self.inputs.values()))
        return first.new_full((self.num_rows,), self.max_new_tokens, dtype=torch.int64)


class Gate(Protocol):
    """Runs the calls of several callers, together where they can be."""

    def run(self, call: Call) -> Hidden:
        """As `Backbone.run`."""
        ...

    def gradients(
        self, loss: Tensor, tensors: Sequence[Tensor], keep: bool
    ) -> Sequence[Tensor | None]:
        """As `Backbone.gradients`."""
        ...
