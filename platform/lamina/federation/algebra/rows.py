"""Tensors that grow by rows as classes appear (heads, sums per class), where clients know different
numbers of classes."""

import torch
from torch import Tensor


def added(first: Tensor, second: Tensor) -> Tensor:
    """first + second, where a dimension of one may be shorter: what is missing counts as zero."""
    if first.shape == second.shape:
        return first + second
    shape = [max(pair) for pair in zip(first.shape, second.shape, strict=True)]
    result = first.new_zeros(shape)
    for each in (first, second):
        result[tuple(slice(length) for length in each.shape)] += each
    return result


def common(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The rows that all of them have."""
    if tensors[0].dim() == 0:
        return tensors
    rows = min(len(tensor) for tensor in tensors)
    return tuple(tensor[:rows] for tensor in tensors)


def extended(tensor: Tensor, wider: Tensor) -> Tensor:
    """The tensor, and below it the rows of `wider` that it does not have."""
    if tensor.dim() == 0 or len(tensor) >= len(wider):
        return tensor
    return torch.cat([tensor, wider[len(tensor) :]])
