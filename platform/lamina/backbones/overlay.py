"""An overlay: what one forward lays over the frozen modules. It is the only way in which an adapter
reaches a backbone.

An overlay is data, not a change to the model: the same backbone serves another adapter in the next
call. Rows are grouped: a tensor of an overlay is either shared by all rows, or has a leading
dimension K that splits the rows into K equal groups.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from torch import Tensor, nn

from lamina.registry import InputError

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, order=True)
class Site:
    """Where a patch attaches: it reads the input of one module and rewrites the output of another.

    LoRA reads and rewrites the same module. A bottleneck beside an MLP reads the MLP's first module
    and rewrites its last.
    """

    read: str
    """Name of the module whose input the patch sees."""
    write: str
    """Name of the module whose output it rewrites."""


class Patch(Protocol):
    """A function at a site."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The new output, from the site's input x [N, S, d_in] and frozen output y [N,
        S, d_out].
        """
        ...


class InputPatch(Protocol):
    """A function before a module."""

    def __call__(self, x: Tensor) -> Tensor:
        """The new input of a module, from its input x [N, S, d_in]."""
        ...


@dataclass(frozen=True)
class StandIn:
    """A module tree that runs in the backbone's place. It shares the frozen weights, and keeps the
    names of the modules."""

    module: nn.Module
    tensors: Mapping[str, Tensor]
    """What stands in for parameters of `module`, by their names."""


KeysAndValues = tuple[Tensor, Tensor]
"""Two tensors, each shared or grouped as in `rows_of`."""
Prefix = KeysAndValues | Callable[[Tensor], KeysAndValues]
"""Keys and values, or a function that computes them from the tokens [N, S, dim] that enter the
layer, prompts included."""


@dataclass
class Overlay:
    """Patches at sites and before modules, keys and values before a layer's own, tokens before (or
    among) the input's."""

    patches: Mapping[Site, Sequence[Patch]] = field(default_factory=dict)
    """Applied in order at each site."""
    input_patches: Mapping[str, Sequence[InputPatch]] = field(default_factory=dict)
    """Applied in order to the input of each named module, before patches read it."""
    prefixes: Mapping[int, Sequence[Prefix]] = field(default_factory=dict)
    """Per layer: keys and values that every token may attend to."""
    prompts: Sequence[Tensor] = field(default_factory=list)
    """Tokens before the input's, each tensor shared or grouped as in `rows_of`."""
    position_shift: int = 0
    """How far the input's positions are moved, where the backbone counts a prefix as positions."""
    stand_in: StandIn | None = None
    """What runs in the backbone's place; everything else is laid over it."""

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        laid = (self.patches, self.input_patches, self.prefixes, self.prompts)
        return not any(laid) and not self.position_shift and self.stand_in is None

    def __or__(self, other: "Overlay") -> "Overlay":
        """Both overlays together; patches of this one come first. Raises InputError where both have
        a stand-in."""
        if self.stand_in is not None and other.stand_in is not None:
            raise InputError(
                "adapter.kind: two adapters that each bring modules of their own ('peft') cannot "
                "lie over a backbone at once"
            )
        return Overlay(
            patches=_joined(self.patches, other.patches),
            input_patches=_joined(self.input_patches, other.input_patches),
            prefixes=_joined(self.prefixes, other.prefixes),
            prompts=[*self.prompts, *other.prompts],
            position_shift=self.position_shift + other.position_shift,
            stand_in=self.stand_in or other.stand_in,
        )


def _joined(
    first: Mapping[K, Sequence[V]], second: Mapping[K, Sequence[V]]
) -> dict[K, Sequence[V]]:
    return {key: [*first.get(key, ()), *second.get(key, ())] for key in {**first, **second}}


def rows_of(tensor: Tensor, num_rows: int) -> Tensor:
    """A tensor for every row: [length, dim] is shared by all, [K, length, dim] by K equal groups of
    rows.

    Returns [num_rows, length, dim].
    """
    if tensor.dim() == 2:
        return tensor.expand(num_rows, *tensor.shape)
    if tensor.shape[0] == num_rows:
        return tensor
    return tensor.repeat_interleave(num_rows // tensor.shape[0], dim=0)
