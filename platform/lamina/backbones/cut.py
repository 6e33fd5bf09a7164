"""A part of a frozen stack of layers: begun at a layer with what enters it, or ended before one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def entered_at(stack: nn.Module, layer: int, tokens: Tensor | None) -> Iterator[None]:
    """Inside, the model begins at a layer of its stack, with these tokens; with None, it is as it
    was."""
    if tokens is None:
        yield
        return

    def enter(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (tokens, *arguments[1:])

    with _skipped(stack, range(layer)):
        handle = stack.get_submodule(str(layer)).register_forward_pre_hook(enter)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def ended_before(stack: nn.Module, layer: int) -> Iterator[list[Tensor]]:
    """Inside, the model skips the layers of its stack from one on; what would have entered it is
    put into the list."""
    entering: list[Tensor] = []

    def leave(_: nn.Module, arguments: tuple[Any, ...]) -> None:
        entering.append(arguments[0])

    num_layers = sum(1 for _ in stack.children())
    with _skipped(stack, range(layer, num_layers)):
        handle = stack.get_submodule(str(layer)).register_forward_pre_hook(leave)
        try:
            yield entering
        finally:
            handle.remove()


@contextmanager
def _skipped(stack: nn.Module, layers: range) -> Iterator[None]:
    """Layers that hand on what they get."""
    before = {}
    for layer in layers:
        module = stack.get_submodule(str(layer))
        # accelerate may have put a forward of its own there.
        before[module] = module.__dict__.get("forward")
        module.forward = _hand_on
    try:
        yield
    finally:
        for module, forward in before.items():
            del module.forward
            if forward is not None:
                module.forward = forward


def _hand_on(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
    return tokens
