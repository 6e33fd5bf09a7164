"""An origin: the adapter from which every task is learned anew, and the merge of what they changed,
which answers."""

from lamina.adapters.base import AdapterKind, Tensors
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
    """The adapter to train is theta_0 again."""
    model.copy(ORIGIN, MAIN)
    model.unfreeze(MAIN)
    model.active = [MAIN]


def answer_with(model: AdaptedModel, kind: AdapterKind | None, tensors: Tensors) -> None:
    """Lay the merged tensors over the backbone, and nothing else."""
    model.keep(MERGED, kind, tensors)
    model.active = [MERGED]
