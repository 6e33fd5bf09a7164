"""Lays an overlay over a model: hooks that last for one forward, so that an overlay can never leak
into a later call."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lamina.backbones.architecture import Architecture
from lamina.backbones.attention import PREFIXES
from lamina.backbones.overlay import InputPatch, Overlay, Patch, Prefix, Site


@contextmanager
def laid_over(
    model: nn.Module,
    architecture: Architecture,
    overlay: Overlay,
    embedded: Tensor | None,
    num_first: int,
) -> Iterator[None]:
    """Inside, every forward of the model runs under the overlay; `embedded` are prompts
    [N, length, dim] that enter the first layer behind its first `num_first` tokens."""
    with ExitStack() as stack:
        for name, input_patches in overlay.input_patches.items():
            hook = _input_hook(input_patches)
            stack.callback(model.get_submodule(name).register_forward_pre_hook(hook).remove)
        for site, patches in overlay.patches.items():
            for handle in _patch_hooks(model, site, patches):
                stack.callback(handle.remove)
        for layer, prefixes in overlay.prefixes.items():
            attention = model.get_submodule(architecture.attentions[layer])
            hook = _prefix_hook(attention, prefixes)
            entrance = model.get_submodule(architecture.blocks[layer])
            stack.callback(entrance.register_forward_pre_hook(hook).remove)
            setattr(attention, PREFIXES, ())
            stack.callback(delattr, attention, PREFIXES)
        if embedded is not None:
            entrance = model.get_submodule(architecture.blocks[0])
            hook = _insert(embedded, num_first)
            # Before prefixes that are computed from what enters the layer.
            stack.callback(entrance.register_forward_pre_hook(hook, prepend=True).remove)
        yield


def _input_hook(patches: Sequence[InputPatch]) -> Any:
    def rewrite(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = arguments[0]
        for patch in patches:
            x = patch(x)
        return (x, *arguments[1:])

    return rewrite


def _patch_hooks(model: nn.Module, site: Site, patches: Sequence[Patch]) -> Iterator[Any]:
    seen: dict[str, Tensor] = {}

    def read(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen["x"] = arguments[0]

    def write(_: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> Tensor:
        x = seen.pop("x")
        for patch in patches:
            y = patch(x, y)
        return y

    yield model.get_submodule(site.read).register_forward_pre_hook(read)
    yield model.get_submodule(site.write).register_forward_hook(write)


def _prefix_hook(attention: nn.Module, prefixes: Sequence[Prefix]) -> Any:
    def lay(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        tokens = arguments[0]
        made = [each(tokens.float()) if callable(each) else each for each in prefixes]
        setattr(attention, PREFIXES, made)

    return lay


def _insert(prompt: Tensor, start: int) -> Any:
    def insert(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens = arguments[0]
        pieces = [tokens[:, :start], prompt.to(tokens.dtype), tokens[:, start:]]
        return (torch.cat(pieces, dim=1), *arguments[1:])

    return insert
