"""Model merging: one set of tensors out of several that were trained from the same start.

A task vector is the change by training, tau = theta - theta_0, tensor by tensor. All functions are
pure. For LoRA, `weighted_lora` sums the products B A themselves; a sum of factors would not.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds.lora import concatenate, modules_of, product


def task_vector(trained: Tensors, origin: Tensors) -> dict[str, Tensor]:
    """tau = theta - theta_0 (Ilharco et al., 2023)."""
    return {name: (trained[name] - start).detach() for name, start in origin.items()}


def added(origin: Tensors, vector: Tensors, weight: float = 1.0) -> dict[str, Tensor]:
    """theta_0 + weight * tau."""
    return {name: start.detach() + weight * vector[name] for name, start in origin.items()}


def trim(vector: Tensors, density: float) -> dict[str, Tensor]:
    """The `density` share of a task vector's entries that are largest in size, over all its tensors
    together; the others zero (Yadav et al., 2023, section 4.1, step 1)."""
    flat = torch.cat([tensor.flatten() for tensor in vector.values()])
    kept = flat.abs().topk(int(density * flat.numel())).indices
    sparse = torch.zeros_like(flat).index_copy(0, kept, flat[kept])
    pieces = sparse.split([tensor.numel() for tensor in vector.values()])
    return {
        name: piece.reshape(tensor.shape)
        for (name, tensor), piece in zip(vector.items(), pieces, strict=True)
    }


def ties(vectors: Sequence[Tensors], density: float) -> dict[str, Tensor]:
    """TIES (Yadav et al., 2023): trim, elect the sign of the summed entries, and average those that
    agree with it."""
    trimmed = [trim(vector, density) for vector in vectors]
    return {name: _disjoint_mean([each[name] for each in trimmed]) for name in vectors[0]}


def _disjoint_mean(tensors: Sequence[Tensor]) -> Tensor:
    stacked = torch.stack(list(tensors))
    elected = torch.where(stacked.sum(dim=0) >= 0, 1.0, -1.0)
    agrees = stacked.sign() == elected
    return (stacked * agrees).sum(dim=0) / agrees.sum(dim=0).clamp_min(1)


def dare(vector: Tensors, drop_rate: float, generator: torch.Generator) -> dict[str, Tensor]:
    """DARE (Yu et al., 2024): every entry is dropped with probability `drop_rate`, the others are
    divided by 1 - drop_rate. Masks are drawn on the CPU, in the order of the tensors."""
    kept = 1.0 - drop_rate
    masks = {
        name: torch.bernoulli(torch.full(tensor.shape, kept), generator=generator)
        for name, tensor in vector.items()
    }
    return {name: tensor * masks[name].to(tensor.device) / kept for name, tensor in vector.items()}


def products(lora: Tensors) -> dict[str, Tensor]:
    """The update B A [d_out, d_in] of every module of a LoRA, by the module's name."""
    return {module: product(lora, module).detach() for module in modules_of(lora)}


def as_lora(updates: Tensors) -> dict[str, Tensor]:
    """The LoRA whose updates are these full matrices [d_out, d_in], by module: one factor is the
    identity, so its rank is the smaller side."""
    lora: dict[str, Tensor] = {}
    for module, update in updates.items():
        d_out, d_in = update.shape
        identity = torch.eye(min(d_out, d_in), dtype=update.dtype, device=update.device)
        a, b = (identity, update) if d_in <= d_out else (update, identity)
        lora |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    return lora


def magmax(first: Tensors, second: Tensors) -> dict[str, Tensor]:
    """MagMax (Marczak et al., 2024): of two task vectors the entry that is larger in size; the
    second's where they are equal. Several are merged one after the other."""
    return {
        name: torch.where(second[name].abs() >= tensor.abs(), second[name], tensor)
        for name, tensor in first.items()
    }


def weighted_lora(loras: Sequence[Tensors], weights: Sequence[float] | Tensor) -> dict[str, Tensor]:
    """One LoRA whose update is sum_t w_t B_t A_t exactly: the factors stacked, each B times its
    weight (PEFT's combination `cat`)."""
    scaled = [
        {name: tensor * weight if ".lora_B." in name else tensor for name, tensor in lora.items()}
        for lora, weight in zip(loras, weights, strict=True)
    ]
    return {name: tensor.detach() for name, tensor in reduce(concatenate, scaled).items()}


def composed(modules: Sequence[Tensors], weights: Tensor) -> dict[str, Tensor]:
    """One module per row, [N, ...], of modules with weights [N, modules].

    Of LoRAs it is the update sum_i w_i B_i A_i: ranks are stacked, [w_1 B_1 ... w_n B_n] [A_1; ...;
    A_n], and A is shared by the rows.
    """
    together = {}
    for name in modules[0]:
        tensors = [module[name] for module in modules]
        if ".lora_A." in name:
            together[name] = torch.cat(tensors)
        elif ".lora_B." in name:
            weighted = torch.einsum("nt,tor->notr", weights, torch.stack(tensors))
            together[name] = weighted.flatten(2)
        else:
            together[name] = torch.tensordot(weights, torch.stack(tensors), dims=1)
    return together
