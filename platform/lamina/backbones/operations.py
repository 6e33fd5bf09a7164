"""Floating-point operations, counted while they happen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

Result = TypeVar("Result")


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


ATTENTION_ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's own counter does not know."""


class _NoModules:
    """In place of torch's tracker of modules, which nobody asks here: it slows a forward down, and
    fails on a module that returns its own parameter (PEFT's GLoRA)."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: Any) -> None:
        return


class _Count:
    """What is counted at the moment."""

    def __init__(self) -> None:
        self.counter = FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU)
        self.counter.mod_tracker = _NoModules()  # type: ignore[assignment]
        self.correction = 0
        """To be added to what the counter says."""

    def total(self) -> int:
        return self.counter.get_total_flops() + self.correction


_current: ContextVar[_Count | None] = ContextVar("_current", default=None)


def is_counting() -> bool:
    """Whether somebody counts what is happening."""
    return _current.get() is not None


def counted(work: Callable[[], Result]) -> tuple[Result, int]:
    """What `work` returns, and the FLOPs of its matrix products and attentions, backward included.

    A multiplication and an addition are two.
    """
    count = _Count()
    token = _current.set(count)
    try:
        with count.counter:
            result = work()
    finally:
        _current.reset(token)
    return result, count.total()


@contextmanager
def counting_as(price: Callable[[], int]) -> Iterator[None]:
    """What happens inside counts as `price()` FLOPs, whatever it takes; that is only asked where
    somebody counts."""
    count = _current.get()
    if count is None:
        yield
        return
    before = count.total()
    yield
    wanted = before + price()
    count.correction += wanted - count.total()
