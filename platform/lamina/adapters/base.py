"""The interface of an adapter kind: settings that can make tensors and lay them over a backbone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay
from lamina.core import Modality

Tensors = Mapping[str, Tensor]
PEFT_PREFIX = "base_model.model."
"""What PEFT puts before a module's name."""


@dataclass(frozen=True)
class AdapterKind(ABC):
    """Settings of one kind of adapter. It holds no tensors, so many adapters of one kind share it.

    If the kind `packs`, each tensor of an adapter may get a leading dimension K. Then the N rows of
    a forward are K equal groups, and group k sees slice k. That is how trials are packed, and how
    the gradients of all single samples are computed in one backward.
    """

    modalities: ClassVar[tuple[Modality, ...]] = ("text", "image")
    """Modalities of the backbones that can carry it."""
    packs: ClassVar[bool] = True
    """Whether its tensors may lead with K."""

    @property
    def name(self) -> str:
        """The kind's name in a job, which is the name of its file."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @abstractmethod
    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """New tensors, such that the features of the backbone are those of the frozen one wherever
        the method says so.

        Raises InputError where the backbone has no place for them.
        """

    @abstractmethod
    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """The overlay of these tensors. With a generator, dropout draws its masks from it."""

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """PEFT's configuration and state dict of the same adapter; None where PEFT has no such
        kind."""
        return None

    def from_peft(self, state: Tensors, backbone: Backbone) -> dict[str, Tensor]:
        """The tensors of an adapter that PEFT saved with these settings."""
        raise NotImplementedError(f"PEFT has no adapter of kind {self.name}")


def are_transposed(backbone: Backbone, modules: Sequence[str]) -> bool:
    """Whether some modules hold their weights as [d_in, d_out] (GPT-2), which PEFT wants to be
    told."""
    return any(type(backbone.model.get_submodule(name)).__name__ == "Conv1D" for name in modules)


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N, ..., d_in] through weight [d_out, d_in], or through weight [K, d_out, d_in] for K equal
    groups of rows."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    rows = x.reshape(weight.shape[0], -1, x.shape[-1])
    if bias is None:
        out = torch.bmm(rows, weight.transpose(1, 2))
    else:
        out = torch.baddbmm(bias[:, None], rows, weight.transpose(1, 2))
    return out.reshape(*x.shape[:-1], weight.shape[1])


def grouped_rows(vector: Tensor, like: Tensor) -> Tensor:
    """A vector [d] for every row of `like` [N, ..., d], or vectors [K, d] for K equal groups of its
    rows. The result broadcasts over `like`."""
    if vector.dim() == 1:
        return vector
    rows = vector.repeat_interleave(len(like) // len(vector), dim=0)
    return rows.view(len(like), *[1] * (like.dim() - 2), -1)


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """U(-bound, bound), drawn on the CPU so that every device starts alike."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def dropped_out(x: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Inverted dropout of x with masks from `generator`."""
    mask = torch.rand(x.shape, generator=generator) >= probability
    return x * mask.to(x.device) / (1 - probability)
