"""Sums of low-rank updates by their factors: stacking, a small SVD, inner products. A dense [d, k]
matrix only where it is the smaller."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lamina.federation.state import Scaling
from lamina.federation.update import LORA_A, LORA_B, Tensors

Factors = tuple[Tensor, Tensor]
"""B [d, r] and A [r, k] in float64, whose product is an update, scale and weight in B."""


def factors_of(
    tensors: Tensors, module: str, scaling: Scaling, weight: float | Tensor = 1.0
) -> Factors:
    """weight s B and A of a module; the weight is a number, or one per column [r]."""
    a = tensors[module + LORA_A].double()
    b = tensors[module + LORA_B].double()
    # The rank is the rows of A by name: where d or k equals r, no shape tells A from B.
    return b * (scaling(a.shape[0]) * weight), a


def stacked(terms: Sequence[Factors]) -> Factors:
    """[B_1 B_2 ...] and [A_1; A_2; ...], whose product is the sum of the products (FLoRA, Wang et
    al., 2024). Weights are on one factor only, or they would count twice."""
    return torch.cat([b for b, _ in terms], dim=1), torch.cat([a for _, a in terms])


def product_svd(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """U [d, m], S [m], V^T [m, k] of B A with m = min(d, r, k), by a QR of each factor and the SVD
    of an r x r matrix; where r is no less than d or k, by that of the product itself."""
    b, a = factors
    if len(a) >= min(len(b), a.shape[1]):
        u, s, vh = torch.linalg.svd(b @ a, full_matrices=False)
        return u, s, vh
    left, upper_left = torch.linalg.qr(b)
    right, upper_right = torch.linalg.qr(a.T)
    u, s, vh = torch.linalg.svd(upper_left @ upper_right.T, full_matrices=False)
    return left @ u, s, vh @ right.T


def truncated(factors: Factors, rank: int) -> tuple[Factors, float]:
    """The nearest product of at most `rank` (Eckart and Young), as U S and V^T, and the squared
    Frobenius norm of what it leaves out."""
    u, s, vh = product_svd(factors)
    return (u[:, :rank] * s[:rank], vh[:rank]), float(s[rank:].square().sum())


def folded(factors: Factors) -> Factors:
    """The same product in min(d, k) terms: itself and an identity."""
    b, a = factors
    whole, identity = b @ a, torch.eye(min(len(b), a.shape[1]), dtype=b.dtype)
    return (whole, identity) if len(b) >= a.shape[1] else (identity, whole)


def inner_products(terms: Sequence[Factors]) -> Tensor:
    """<B_i A_i, B_j A_j> of n updates, [n, n], through Grams of their columns and rows: sum of
    (B_i^T B_j) * (A_i A_j^T)."""
    b, a = stacked(terms)
    owners = torch.cat([torch.full((len(a),), i) for i, (_, a) in enumerate(terms)])
    member = torch.nn.functional.one_hot(owners, len(terms)).double()
    return member.T @ ((b.T @ b) * (a @ a.T)) @ member


def sliced(tensors: Tensors, rank: int, scaling: Scaling) -> dict[str, Tensor]:
    """The first `rank` rows of every A and columns of every B, B rescaled such that s B A is the
    sum of the first `rank` terms of what it was."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(LORA_A):
            found[name] = tensor[:rank]
        elif name.endswith(LORA_B):
            whole = tensor.shape[1]
            found[name] = tensor[:, :rank] * (scaling(whole) / scaling(min(rank, whole)))
        else:
            found[name] = tensor
    return found
