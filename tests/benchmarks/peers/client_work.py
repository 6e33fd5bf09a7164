"""What a client does in `federated_vs_flower.py`, the same on both sides. It knows neither of them.

A client is sent named float32 arrays, 64 KiB in all, and gives back as many, a weight and a loss:

- `noop` adds one to every number, so that what is left at the end says how many rounds there were.
- `lora` trains the factors of a LoRA of rank 8 on one frozen layer of 1,024 by 1,024, three steps
  of plain gradient descent on 32 rows of its own: some milliseconds on a core. The rows of all
  clients follow one rule, so the mean loss falls from round to round.
"""

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH = 1024
RANK = 8
CLASSES = 10
ROWS = 32
STEPS = 3
RATE = 0.5
LORA_A = "main.layer.lora_A.weight"
LORA_B = "main.layer.lora_B.weight"

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Plan:
    """A federation."""

    work: str
    """What a client does: `noop` or `lora`."""
    registered: int
    """Clients that there are."""
    sampled: int
    """Clients that a round asks."""
    rounds: int
    """Rounds that are timed."""
    skipped: int
    """Rounds before them."""

    @property
    def all_rounds(self) -> int:
        """Of the whole run."""
        return self.skipped + self.rounds

    def write(self, folder: Path) -> None:
        """For a side to read."""
        (folder / "plan.json").write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(folder: Path) -> "Plan":
        """What was written there."""
        return Plan(**json.loads((folder / "plan.json").read_text()))


@dataclass(frozen=True)
class Found:
    """What a side writes of its run."""

    ends: list[float]
    """When each round was over, in seconds of one clock."""
    updates: list[int]
    """How many updates each round aggregated."""
    losses: list[float]
    """The clients' mean loss in each round."""
    last: float
    """The mean of all numbers of the last global state."""
    cpu: dict[str, float] | None = None
    """CPU seconds of the timed rounds, by whose they are."""

    def write(self, folder: Path) -> None:
        """For the benchmark to read."""
        (folder / "found.json").write_text(json.dumps(asdict(self)))

    @staticmethod
    def read(folder: Path) -> "Found":
        """What was written there."""
        return Found(**json.loads((folder / "found.json").read_text()))


@dataclass(frozen=True)
class Update:
    """What a client gives back."""

    arrays: Arrays
    loss: float
    num_rows: int = ROWS


def initial(work: str) -> Arrays:
    """What the first round starts from."""
    shapes = {LORA_A: (RANK, WIDTH), LORA_B: (WIDTH, RANK)}
    arrays = {name: np.zeros(shape, dtype=np.float32) for name, shape in shapes.items()}
    if work == "lora":
        random = np.random.default_rng(0)
        arrays[LORA_A] += random.standard_normal(shapes[LORA_A], dtype=np.float32) / WIDTH**0.5
    return arrays


def work_of(work: str, client: int, arrays: Arrays) -> Update:
    """A client's round. `arrays` are left as they are."""
    if work == "noop":
        return Update({name: array + 1 for name, array in arrays.items()}, loss=0.0)
    return _lora(client, arrays)


def mean_of(arrays: Arrays) -> float:
    """Of all numbers."""
    return float(np.mean([array.mean(dtype=np.float64) for array in arrays.values()]))


@cache
def _frozen() -> tuple[Any, Any, Any]:
    """The layer under the LoRA, the head over it, and the rule that the rows follow: there once in
    a process."""
    import torch

    generator = torch.Generator().manual_seed(1)
    layer, head, rule = (
        torch.randn(rows, WIDTH, generator=generator) / WIDTH**0.5
        for rows in (WIDTH, CLASSES, CLASSES)
    )
    return layer, head, rule


def _lora(client: int, arrays: Arrays) -> Update:
    import torch
    from torch.nn import functional

    layer, head, rule = _frozen()
    generator = torch.Generator().manual_seed(100 + client)
    rows = torch.randn(ROWS, WIDTH, generator=generator)
    labels = (rows @ rule.T).argmax(dim=1)
    factors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    for factor in factors.values():
        factor.requires_grad_()
    total = 0.0
    for _ in range(STEPS):
        laid = functional.linear(functional.linear(rows, factors[LORA_A]), factors[LORA_B])
        hidden = functional.gelu(functional.linear(rows, layer) + 2 * laid)
        loss = functional.cross_entropy(functional.linear(hidden, head), labels)
        gradients = torch.autograd.grad(loss, list(factors.values()))
        with torch.no_grad():
            for factor, gradient in zip(factors.values(), gradients, strict=True):
                factor -= RATE * gradient
        total += float(loss.detach())
    trained = {name: factor.detach().numpy() for name, factor in factors.items()}
    return Update(trained, total / STEPS)
