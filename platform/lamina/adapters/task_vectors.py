"""Task vectors in a model. Every task is trained from one start, and its vector is the change by
training. A merge of the vectors answers at test."""

from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors
from lamina.adapters.merging import task_vector
from lamina.adapters.model import MAIN, AdaptedModel

ORIGIN = "origin"
"""theta_0, frozen."""
MERGED = "merged"
"""The adapter that answers at test."""


def set_origin(model: AdaptedModel) -> None:
    """Attach theta_0, an adapter of the job's kind."""
    model.add(ORIGIN)
    model.freeze(ORIGIN)


def start_anew(model: AdaptedModel) -> None:
    """Set the adapter that is trained back to theta_0."""
    model.copy(ORIGIN, MAIN)
    model.unfreeze(MAIN)
    model.active = [MAIN]


def last_vector(model: AdaptedModel) -> dict[str, Tensor]:
    """tau_t = theta_t - theta_0 of the task that was learned last."""
    return task_vector(model.adapters[MAIN].tensors, model.adapters[ORIGIN].tensors)


def answer_with(model: AdaptedModel, kind: AdapterKind | None, tensors: Tensors) -> None:
    """Lay the merged tensors over the backbone, and nothing else."""
    model.keep(MERGED, kind, tensors)
    model.active = [MERGED]
