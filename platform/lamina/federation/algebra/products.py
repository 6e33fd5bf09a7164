"""Shared by aggregators of products: the stack of the clients' factors, and new factors for it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lamina.federation.algebra.lowrank import Factors, factors_of, stacked, truncated
from lamina.federation.state import Scaling
from lamina.federation.update import LORA_A, LORA_B, Tensors


def stack_of(
    sent: Sequence[Tensors],
    weights: Sequence[float],
    module: str,
    scaling: Scaling,
    *,
    by_slice: bool = False,
) -> Factors:
    """Factors of sum_i w_i s_i B_i A_i / sum_i w_i of a module, over the clients whose tensors
    (`sent`) hold it, each read with the scale of its own rank.

    With `by_slice`, term c of every client counts w_i / (sum of the weights of those whose rank is
    more than c): at equal ranks the same.
    """
    held = [(each, w) for each, w in zip(sent, weights, strict=True) if module + LORA_A in each]
    ranks = [len(each[module + LORA_A]) for each, _ in held]
    reach = torch.zeros(max(ranks), dtype=torch.float64)
    for rank, (_, weight) in zip(ranks, held, strict=True):
        reach[: rank if by_slice else None] += weight
    return stacked(
        [
            factors_of(each, module, scaling, weight / reach[:rank])
            for rank, (each, weight) in zip(ranks, held, strict=True)
        ]
    )


def refactored(
    tensors: Tensors, module: str, whole: Factors, scaling: Scaling
) -> dict[str, Tensor]:
    """A and B of a module, shaped and typed as `tensors` holds them, with s B A the nearest product
    to `whole` of their rank.

    Where `whole` has fewer terms than that, the rows of A stay as they were and the columns of B
    are zero.
    """
    a, b = tensors[module + LORA_A].clone(), torch.zeros_like(tensors[module + LORA_B])
    (left, right), _ = truncated(whole, len(a))
    a[: len(right)] = right.to(a.dtype)
    b[:, : left.shape[1]] = (left / scaling(len(a))).to(b.dtype)
    return {module + LORA_A: a, module + LORA_B: b}
