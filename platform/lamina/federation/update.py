"""What a client sends to the server: named tensors of a known schema, and sums; nothing else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
"""Adapter, head and free tensors by the names of `AdaptedModel.parameters()`
(`main.encoder.layer.0...lora_A.weight`, `head.weight`), on the CPU."""
GRAM = "gram:"
"""Before a module's name: the Gram matrix of its inputs, among a client's summaries."""
LORA_A = ".lora_A.weight"
LORA_B = ".lora_B.weight"


@dataclass(frozen=True)
class ClientUpdate:
    """What one client found in one round. It holds no rows of its data."""

    client: str
    """Which client."""
    round: int
    """The round whose global state it started from."""
    tensors: Tensors
    """What it trained, as it stands after its steps (not the difference)."""
    num_rows: int
    """How many rows it trained on, or where answers are tokens, how many tokens: its weight, where
    clients are weighted."""
    phase: str
    """What the round trained and how (`a`, `b`, `both`, a task key ...): updates of different
    phases do not mix."""
    base: str
    """`digest_of` the global tensors that it started from."""
    summaries: Tensors = field(default_factory=dict)
    """Sums over its rows (class counts, feature sums, Gram matrices ...): they add."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Plain numbers worth recording."""


def digest_of(tensors: Tensors) -> str:
    """A sha256 of names, shapes, types and bytes: equal digests, equal tensors."""
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def gram_name(module: str) -> str:
    """Under which a client's summaries hold sum x x^T [d_in, d_in] of a module's inputs; `module`
    as in the names of tensors (`main.encoder.layer.0.attention.self.query`)."""
    return GRAM + module


def modules_of(tensors: Iterable[str]) -> list[str]:
    """The modules (with the adapter's name, `main.encoder...query`) of which both factors are
    there, sorted. A LoRA of which one factor is frozen for good is averaged like any tensor."""
    names = set(tensors)
    heads = (name.removesuffix(LORA_A) for name in names if name.endswith(LORA_A))
    return sorted(module for module in heads if module + LORA_B in names)


def is_factor(name: str) -> bool:
    """Whether a tensor is a factor of a LoRA, whose rows no other client's rank may stretch."""
    return name.endswith((LORA_A, LORA_B))
