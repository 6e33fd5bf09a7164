"""Floating-point operations, counted while they happen."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Result = TypeVar("Result")


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> int:
    shapes = (each.shape for each in (gradient, query, key, value))
    return int(sdpa_backward_flop_count(*shapes))


FORMULAS = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""FLOPs of an operation by its arguments and its result: torch's, and two that torch lacks."""


class _Counter(TorchDispatchMode):
    """Adds up FLOPs, as torch's FlopCounterMode does.

    FlopCounterMode also keeps a sum for each module, asks of every operation whether it can be
    decomposed, and imports torch's compiler. A small forward takes several times as long under it,
    and it fails on a module that returns its own parameter (PEFT's GLoRA).
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: to be skipped, it would have to import the compiler, which nobody uses here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


_current: ContextVar[_Counter | None] = ContextVar("_current", default=None)


def is_counting() -> bool:
    """Whether operations are being counted."""
    return _current.get() is not None


def counted(work: Callable[[], Result]) -> tuple[Result, int]:
    """What `work` returns, and the FLOPs of its matrix products and attentions, backward included.

    A multiplication and an addition are two. Raises RuntimeError in torch's inference mode, where
    products are not told apart.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError("operations cannot be counted in torch's inference mode")
    counter = _Counter()
    token = _current.set(counter)
    try:
        with counter:
            result = work()
    finally:
        _current.reset(token)
    return result, counter.total


@contextmanager
def counting_as(price: Callable[[], int]) -> Iterator[None]:
    """Inside, all operations together count as `price()` FLOPs. The function is called only while
    operations are counted."""
    counter = _current.get()
    if counter is None:
        yield
        return
    before = counter.total
    yield
    counter.total = before + price()
