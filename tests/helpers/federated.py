"""Updates of clients, small enough to multiply out."""

import torch

from lamina.core import generator_of
from lamina.federation.state import GlobalState, Scaling
from lamina.federation.update import LORA_A, LORA_B, ClientUpdate, modules_of

MODULES = {"main.0.query": (10, 6), "main.0.value": (4, 9), "main.1.query": (3, 3)}
"""d_out and d_in of three modules; at rank 3 or 4 two of them have one equal to it."""


def factors(seed, rank=3, modules=MODULES):
    """LoRA factors none of which is zero."""
    generator = generator_of(seed, "factors")
    tensors = {}
    for module, (d_out, d_in) in modules.items():
        tensors[module + LORA_A] = torch.randn(rank, d_in, generator=generator)
        tensors[module + LORA_B] = torch.randn(d_out, rank, generator=generator)
    return tensors


def head(seed, classes, dim=5):
    """A head of so many classes."""
    generator = generator_of(seed, "head")
    return {
        "head.weight": torch.randn(classes, dim, generator=generator),
        "head.bias": torch.randn(classes, generator=generator),
    }


def update(client, tensors, rows=1, *, round=0, phase="both", base="", **others):
    return ClientUpdate(client, round, tensors, rows, phase, base, **others)


def started(rank=3, scaling=None, seed=100):
    """A global state of LoRA factors and a head of four classes."""
    tensors = {**factors(seed, rank), **head(seed, 4)}
    return GlobalState(tensors, scaling or Scaling(alpha=6.0), seed=seed)


def clients(ranks=(3, 3, 3), rows=(1, 5, 2), classes=4):
    """As many clients as ranks, each with factors and a head of its own."""
    return [
        update(f"client_{i}", {**factors(i, rank), **head(i, classes)}, n)
        for i, (rank, n) in enumerate(zip(ranks, rows, strict=True))
    ]


def product(tensors, module, scaling):
    """s B A, dense."""
    a, b = tensors[module + LORA_A].double(), tensors[module + LORA_B].double()
    return scaling(len(a)) * b @ a


def mean_product(updates, module, scaling):
    """sum w_i s_i B_i A_i, dense."""
    weights = [each.num_rows for each in updates]
    terms = [
        w * product(each.tensors, module, scaling) for w, each in zip(weights, updates, strict=True)
    ]
    return sum(terms) / sum(weights)


def whole_update(state, module):
    """What a client's backbone gets from a state: its ledger and its adapter, dense."""
    total = product(state.tensors, module, state.scaling)
    if module + LORA_A in state.ledger:
        total = total + product(state.ledger, module, Scaling(1.0, 0.0))
    return total


def modules(state):
    return modules_of(state.tensors)
