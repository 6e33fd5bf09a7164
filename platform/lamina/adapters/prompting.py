"""Shared by methods with prefixes of their own: which layers carry prefixes, how they are laid over
the backbone, and keys that start orthogonal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay
from lamina.registry import InputError

PAPER_DEPTH = 12
"""The number of layers of the backbones in the papers (ViT-B, BERT-base), by which they number
layers."""


def layers_in(
    backbone: Backbone, chosen: Sequence[int] | None, paper: range, key: str
) -> list[int]:
    """The layers that carry a prefix: the chosen ones, or those that take the place of the
    `paper`'s of twelve, at least one.

    Raises InputError naming `strategy.key` for a layer that is not there, and for a backbone whose
    attention takes no prefixes.
    """
    depth = backbone.architecture.num_layers
    backbone.capabilities.check_prefixes("strategy.name: its prefixes")
    if backbone.architecture.key_width != backbone.architecture.width:
        raise InputError(
            "strategy.name: its prefixes are as wide as tokens, and the keys of a "
            f"{backbone.architecture.model_type!r} backbone are not"
        )
    if chosen is None:
        return list(
            range(paper.start * depth // PAPER_DEPTH, -(-paper.stop * depth // PAPER_DEPTH))
        )
    for layer in chosen:
        if not -depth <= layer < depth:
            raise InputError(
                f"strategy.{key}: there is no layer {layer} "
                f"(allowed: 0 to {depth - 1}, or negative)"
            )
    return sorted({layer % depth for layer in chosen})


def prefix_overlay(prefixes: Tensor, layers: Sequence[int]) -> Overlay:
    """Keys and values before those of the layers, from prefixes [layers, 2, length, dim] for all
    rows or [N, layers, 2, length, dim] for each its own.

    As in the public code of these methods they stand behind the projections, and the input keeps
    its positions.
    """
    pieces = prefixes.unbind(-4)
    return Overlay(
        prefixes={
            layer: [(piece[..., 0, :, :], piece[..., 1, :, :])]
            for layer, piece in zip(layers, pieces, strict=True)
        }
    )


def orthonormal(drawn: Tensor, past: Tensor) -> Tensor:
    """Rows [m, d] of length one, orthogonal to each other and to the rows of `past` [n, d] while n
    + m <= d."""
    if len(past) + len(drawn) <= drawn.shape[1]:
        basis = torch.linalg.qr(past.T).Q
        drawn = drawn - (drawn @ basis) @ basis.T
    return torch.linalg.qr(drawn.T).Q.T
