"""A part of a frozen stack of layers: begun at a layer with what enters it, or ended before one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
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
        # Before what an overlay has there.
        entrance = stack.get_submodule(str(layer))
        handle = entrance.register_forward_pre_hook(enter, prepend=True)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def answering(answers: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Inside, these modules return the given tensors and compute nothing. Their hooks are called as
    always."""
    with _instead({module: _giver(answer) for module, answer in answers.items()}):
        yield


@contextmanager
def ended_before(stack: nn.Module, layer: int) -> Iterator[list[Tensor]]:
    """Inside, the model skips the layers of its stack from `layer` on. The tokens that would have
    entered that layer are put into the list."""
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


def _skipped(stack: nn.Module, layers: range) -> AbstractContextManager[None]:
    """Layers that return their input."""
    return _instead({stack.get_submodule(str(layer)): _hand_on for layer in layers})


@contextmanager
def _instead(forwards: Mapping[nn.Module, Callable[..., Tensor]]) -> Iterator[None]:
    """Inside, modules run other functions as their forward."""
    # accelerate may have put one of its own there.
    before = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, own in before.items():
            del module.forward
            if own is not None:
                module.forward = own


def _giver(answer: Tensor) -> Callable[..., Tensor]:
    return lambda *_, **__: answer


def _hand_on(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
    return tokens
