"""Several calls of a backbone as one: their rows one after the other, each under its own overlay.

The frozen modules see all rows at once; what is laid over them is applied to each call's rows in
turn. On a CPU that gives a call what it gets alone to the last bit wherever a matrix product does
not depend on how many rows it has (MiniLM's do not; very small ones may). On a GPU, where each
small product costs a launch, patches of one kind for as many rows each become one patch whose
tensors lead with K, and one batched product: the same up to the rounding of float sums.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from lamina.backbones.answers import answer_lengths
from lamina.backbones.architecture import Architecture
from lamina.backbones.calls import Call, Hidden
from lamina.backbones.overlay import InputPatch, KeysAndValues, Overlay, Patch, Prefix, rows_of
from lamina.backbones.unpadded import current
from lamina.core import IGNORED

P = TypeVar("P")


@runtime_checkable
class Stackable(Protocol):
    """A patch that treats every token by itself."""

    @property
    def is_shared(self) -> bool:
        """Whether it treats all of them alike: it does not lead with K, and drops nothing."""
        ...

    def stacked(self, patches: Sequence[Any]) -> Any:
        """One patch for K equal groups of rows out of K patches of this class, this one first; None
        where these do not go together."""
        ...


def stacked_fields(patches: Sequence[P]) -> P | None:
    """Stack patches that are dataclasses of tensors and settings: every tensor gets a leading K.
    None where shapes or settings differ."""
    together = {}
    for field in fields(patches[0]):  # type: ignore[arg-type]
        values = [getattr(patch, field.name) for patch in patches]
        if isinstance(values[0], Tensor):
            if any(value.shape != values[0].shape for value in values):
                return None
            together[field.name] = torch.stack(values)
        elif any(value != values[0] for value in values):
            return None
    return replace(patches[0], **together)  # type: ignore[type-var]


@dataclass(frozen=True)
class InTurn:
    """Patches of several calls, each applied to the rows of its own call."""

    chains: Sequence[Sequence[Any]]
    sizes: Sequence[int]

    @property
    def is_shared(self) -> bool:
        """Whether every patch treats all tokens in the same way."""
        return all(are_shared(chain) for chain in self.chains)

    def __call__(self, *tensors: Tensor) -> Tensor:
        """The new output, from input and output of a site; or a module's new input, from its
        input."""
        positions = current()
        # Without padding [1, T, d], or [1, T, heads, d] at the norms of Qwen3's queries and keys;
        # OPT's feed-forward has tokens as rows, [T, d].
        dim = 0 if positions is None or tensors[0].dim() == 2 else 1
        if positions is None:
            # A model may hand on windows of an image, or tokens, as rows of their own.
            pieces_of_row = len(tensors[0]) // sum(self.sizes)
            sizes = [pieces_of_row * size for size in self.sizes]
        else:
            sizes = positions.sizes(self.sizes)
        pieces = zip(*(tensor.split(sizes, dim) for tensor in tensors), strict=True)
        return torch.cat(
            [_through(chain, piece) for chain, piece in zip(self.chains, pieces, strict=True)], dim
        )


def are_shared(patches: Iterable[Any]) -> bool:
    """Whether each patch treats tokens one by one, and all in the same way."""
    return all(getattr(patch, "is_shared", False) for patch in patches)


def _through(chain: Sequence[Any], tensors: Sequence[Tensor]) -> Tensor:
    *read, value = tensors
    for patch in chain:
        value = patch(*read, value)
    return value


class Added(NamedTuple):
    """How many tokens and positions an overlay adds where."""

    layers: tuple[int, ...]
    """Those that have a prefix, in order."""
    prefixes: tuple[int, ...]
    """For each of these layers, how many keys its prefix has."""
    prompts: int
    """Tokens before the input's."""
    position_shift: int
    """As in the overlay."""


def added_by(overlay: Overlay) -> Added | None:
    """The sizes that must be equal for calls to run together. None for an overlay whose call runs
    alone."""
    given = [prefix for prefixes in overlay.prefixes.values() for prefix in prefixes]
    if overlay.stand_in is not None or any(callable(prefix) for prefix in given):
        return None
    layers = tuple(sorted(overlay.prefixes))
    return Added(
        layers=layers,
        prefixes=tuple(sum(map(_length, overlay.prefixes[layer])) for layer in layers),
        prompts=sum(prompt.shape[-2] for prompt in overlay.prompts),
        position_shift=overlay.position_shift,
    )


def meeting(call: Call, architecture: Architecture) -> Hashable | None:
    """A key: calls of one model that have the same key can run together. None where a call only
    runs alone.

    Texts have to be padded to one length: padding further would round differently.
    """
    added = added_by(call.overlay)
    if added is None or call.choose is not None:
        return None
    if architecture.projects_positions and not call.overlay.is_empty:
        return None
    shapes = {name: value.shape[1:] for name, value in call.inputs.items()}
    shape = tuple(sorted(shapes.items()))
    start = architecture.frozen_below(call.overlay)
    return added, shape, start, torch.is_grad_enabled(), call.max_new_tokens > 0


def joined(calls: Sequence[Call], *, stack: bool) -> Call:
    """One call for several that meet. `stack`: as in `packed`."""
    sizes = [call.num_rows for call in calls]
    inputs = {name: torch.cat([call.inputs[name] for call in calls]) for name in calls[0].inputs}
    overlay = packed([call.overlay for call in calls], sizes, stack=stack)
    max_new_tokens = max(call.max_new_tokens for call in calls)
    limits = (
        torch.cat([call.max_new_tokens_of_rows() for call in calls]) if max_new_tokens else None
    )
    return Call(inputs, overlay, max_new_tokens, limits=limits)


def taken_apart(hidden: Hidden, calls: Sequence[Call]) -> list[Hidden]:
    """The rows of each call, from what `joined` calls gave: answers are as long as the longest of
    the call's own."""
    sizes = [call.num_rows for call in calls]
    nothing = [None] * len(sizes)
    prompts = nothing if hidden.prompts is None else hidden.prompts.split(sizes)
    answers = nothing if hidden.answers is None else hidden.answers.split(sizes)
    generated = (
        nothing if hidden.generated is None else map(_trimmed, hidden.generated.split(sizes))
    )
    return [
        Hidden(
            features,
            prompt,
            None if answer is None else answer[:, : int(answer_lengths(call.inputs).max())],
            own,
        )
        for features, prompt, answer, own, call in zip(
            hidden.features.split(sizes), prompts, answers, generated, calls, strict=True
        )
    ]


def _trimmed(generated: Tensor) -> Tensor:
    """Generated tokens [N, L] without the columns that are behind all answers."""
    return generated[:, : int((generated != IGNORED).sum(dim=1).max())]


def packed(overlays: Sequence[Overlay], sizes: Sequence[int], *, stack: bool) -> Overlay:
    """One overlay for the rows of several calls of `sizes` rows, whose `added_by` are equal.

    `stack`: let patches lead with K where they can.
    """
    if len(overlays) == 1:
        return overlays[0]
    sites = dict.fromkeys(site for each in overlays for site in each.patches)
    modules = dict.fromkeys(name for each in overlays for name in each.input_patches)
    prompts = [
        torch.cat([rows_of(prompt, size) for prompt in each.prompts], dim=1)
        for each, size in zip(overlays, sizes, strict=True)
        if each.prompts
    ]
    patches: dict[Any, Sequence[Patch]] = {
        site: _together([each.patches.get(site, ()) for each in overlays], sizes, stack)
        for site in sites
    }
    input_patches: dict[str, Sequence[InputPatch]] = {
        name: _together([each.input_patches.get(name, ()) for each in overlays], sizes, stack)
        for name in modules
    }
    return Overlay(
        patches=patches,
        input_patches=input_patches,
        prefixes={
            layer: [_one_prefix([each.prefixes[layer] for each in overlays], sizes)]
            for layer in overlays[0].prefixes
        },
        prompts=[torch.cat(prompts)] if prompts else [],
        position_shift=overlays[0].position_shift,
    )


def _together(chains: Sequence[Sequence[Any]], sizes: Sequence[int], stack: bool) -> list[Any]:
    """One chain of patches for all calls, out of a chain per call at the same site or module."""
    if stack and len({len(chain) for chain in chains}) == 1 and len(set(sizes)) == 1:
        columns = [_stacked(column) for column in zip(*chains, strict=True)]
        if all(column is not None for column in columns):
            return columns
    return [InTurn(chains, sizes)]


def _stacked(patches: Sequence[Any]) -> Any:
    first = patches[0]
    if not isinstance(first, Stackable) or any(type(each) is not type(first) for each in patches):
        return None
    return first.stacked(patches)


def _one_prefix(prefixes: Sequence[Sequence[Prefix]], sizes: Sequence[int]) -> KeysAndValues:
    """The keys and values of one layer for every row, out of each call's prefixes."""
    rows = [
        # Each is put before those before it.
        [
            torch.cat([rows_of(pair[which], size) for pair in reversed(_given(each))], dim=1)
            for which in (0, 1)
        ]
        for each, size in zip(prefixes, sizes, strict=True)
    ]
    keys, values = (torch.cat(column) for column in zip(*rows, strict=True))
    return keys, values


def _given(prefixes: Sequence[Prefix]) -> list[KeysAndValues]:
    return [prefix for prefix in prefixes if not callable(prefix)]


def _length(prefix: Prefix) -> int:
    assert not callable(prefix)
    return int(prefix[0].shape[-2])
