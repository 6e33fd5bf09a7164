"""Texts without their padding: from one layer on, the tokens of all rows stand one after the other,
[1, T, dim], and only attention sees rows.

Of a batch of sentences much is padding, which a frozen layer's matrix products would compute like
any token. A token gets the same numbers either way, up to the rounding of float sums.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

WORTH = 0.9
"""Padding is left out where tokens are at most this share of a padded batch."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of N texts padded to S are."""

    at: Tensor
    """int64 [T], in the N * S places, row by row."""
    lengths: Tensor
    """int64 [N]."""
    width: int
    """S."""

    @classmethod
    def of(cls, mask: Tensor) -> "Places | None":
        """The places that a mask [N, S] leaves; None where there is little padding."""
        lengths = mask.sum(dim=1)
        if int(lengths.sum()) > WORTH * mask.numel():
            return None
        return cls(mask.flatten().nonzero()[:, 0], lengths, mask.shape[1])

    def without(self, tokens: Tensor) -> Tensor:
        """[N, S, ...] -> [1, T, ...]."""
        return tokens.flatten(0, 1).index_select(0, self.at)[None]

    def within(self, tokens: Tensor) -> Tensor:
        """[1, T, ...] -> [N, S, ...], zero where padding is."""
        padded = tokens.new_zeros(len(self.lengths) * self.width, *tokens.shape[2:])
        return padded.index_copy(0, self.at, tokens[0]).unflatten(0, (-1, self.width))

    def sizes(self, rows: Sequence[int]) -> list[int]:
        """How many tokens so many rows have, and the next ones, and so on."""
        return [int(lengths.sum()) for lengths in self.lengths.split(list(rows))]


_current: ContextVar[Places | None] = ContextVar("_current", default=None)


def current() -> Places | None:
    """Where the tokens are of the forward under way; None while it is padded."""
    return _current.get()


@contextmanager
def unpadded(stack: nn.Module, layer: int, places: Places | None) -> Iterator[None]:
    """Inside, what enters a layer of the stack goes on without padding; with None, all stays."""
    if places is None:
        yield
        return

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        # Only from here on: what is laid over the embeddings sees rows.
        _current.set(places)
        return (places.without(arguments[0]), *arguments[1:])

    handle = stack.get_submodule(str(layer)).register_forward_pre_hook(enter)
    try:
        yield
    finally:
        _current.set(None)
        handle.remove()
