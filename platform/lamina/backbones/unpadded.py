"""Texts without their padding: from one layer on, the tokens of all rows stand one after the other,
[1, T, dim]. Only attention sees rows.

Much of a batch of sentences is padding, and a frozen layer's matrix products would compute it like
any other token. A token gets the same numbers either way, up to the rounding of float sums.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

WORTH = 0.9
"""Padding is left out where tokens are at most this share of a padded batch."""
LANES = {"AVX512": 16, "AVX2": 8}.get(torch.backends.cpu.get_cpu_capability(), 1)
"""SIMD width: the float32 lanes of a core's vectors. torch's attention takes keys that do not fill
a vector one by one: with 16 lanes, 14 keys take three times as long as 16. (The exponential of
those keys has another formula there, whose last digits differ.)"""


@dataclass(frozen=True)
class TokenPositions:
    """The positions of the tokens of N texts, which only attention sees padded to length S."""

    at: Tensor
    """int64 [T]: of each token, its index among the N * S positions, row by row."""
    stand_ins: Tensor
    """int64 [N * S]: the token at each position. At padding it is the token before."""
    lengths: Tensor
    """int64 [N]: tokens of each text."""
    visible: Tensor
    """The mask of attention: bool [N, 1, 1, S], False at padding. In a causal model it is [N, 1, S,
    S], and no token sees those behind it."""

    @property
    def is_causal(self) -> bool:
        """Whether the model is causal. Then it is given its input without padding; the padding of
        another is left out behind its embeddings, which may depend on columns."""
        return self.visible.shape[2] > 1

    @classmethod
    def of(
        cls, mask: Tensor, num_prefixed: int = 0, *, is_causal: bool = False
    ) -> "TokenPositions | None":
        """The positions of the tokens under a mask [N, S].

        S is rounded up to whole SIMD vectors of keys where few keys are missing, because attention
        is faster so; `num_prefixed` keys stand before the texts' own. None where S stays and there
        is little padding to leave out. A causal model's is always left out: it answers token by
        token, and what it says of a text should not depend on the padding of others.
        """
        lengths = mask.sum(dim=1)
        left_over = (mask.shape[1] + num_prefixed) % LANES
        if left_over > LANES // 2 + 1:
            mask = nn.functional.pad(mask, (0, LANES - left_over))
        elif not is_causal and int(lengths.sum()) > WORTH * mask.numel():
            return None
        flat = mask.flatten()
        stand_ins = (flat.cumsum(0) - 1).clamp_min(0)
        visible = mask[:, None, None].bool()
        if is_causal:
            visible = visible.expand(-1, -1, mask.shape[1], -1).tril()
        return cls(flat.nonzero()[:, 0], stand_ins, lengths, visible)

    def without(self, tokens: Tensor) -> Tensor:
        """[N, S, ...] -> [1, T, ...]; S may be that of the attention, or of the texts."""
        width, own = self.visible.shape[-1], tokens.shape[1]
        at = self.at if own == width else self.at // width * own + self.at % width
        return tokens.flatten(0, 1).index_select(0, at)[None]

    def within(self, tokens: Tensor) -> Tensor:
        """[1, T, ...] -> [N, S, ...], for readers that ignore padding: another token stands
        there."""
        padded = spread(tokens[0], self.stand_ins, self.at)
        return padded.unflatten(0, (len(self.lengths), -1))

    def sizes(self, rows: Sequence[int]) -> list[int]:
        """The number of tokens of each group of consecutive rows, from the numbers of rows."""
        return [int(lengths.sum()) for lengths in self.lengths.split(list(rows))]


def spread(rows: Tensor, stand_ins: Tensor, at: Tensor) -> Tensor:
    """Rows [T, ...] placed at the positions `at` [T]; at any other position stands the row that
    `stand_ins` names.

    Only the positions `at` give a gradient, because nothing reads the others. Forward and backward
    are one gather each, where an index_copy would write zeros first.
    """
    found: Tensor = _Spread.apply(rows, stand_ins, at)
    return found


class _Spread(Function):
    """`spread` with its own backward."""

    @staticmethod
    def forward(context: Any, rows: Tensor, stand_ins: Tensor, at: Tensor) -> Tensor:
        context.save_for_backward(at)
        return rows.index_select(0, stand_ins)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (at,) = context.saved_tensors
        return gradients[0].index_select(0, at), None, None


_current: ContextVar[TokenPositions | None] = ContextVar("_current", default=None)


def current() -> TokenPositions | None:
    """The positions of the tokens in the forward that runs now; None while texts are padded."""
    return _current.get()


@contextmanager
def unpadded(positions: TokenPositions | None) -> Iterator[None]:
    """Inside, texts run without padding, with their tokens at `positions`. None: with padding."""
    token = _current.set(positions)
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def unpadded_from(layer: nn.Module, positions: TokenPositions | None) -> Iterator[None]:
    """Inside, padding is removed before a layer, and the layers above run without it. None: nothing
    is removed."""
    if positions is None:
        yield
        return

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        # Only from here on: what is laid over the embeddings sees rows.
        _current.set(positions)
        return (positions.without(arguments[0]), *arguments[1:])

    handle = layer.register_forward_pre_hook(enter)
    try:
        yield
    finally:
        _current.set(None)
        handle.remove()


def padded(tokens: Tensor, mask: Tensor) -> Tensor:
    """[T, ...] -> [N, S, ...], zeros where a mask [N, S] has them."""
    at = mask.flatten().nonzero()[:, 0]
    rows = tokens.new_zeros(mask.numel(), *tokens.shape[1:]).index_copy_(0, at, tokens)
    return rows.unflatten(0, mask.shape)
