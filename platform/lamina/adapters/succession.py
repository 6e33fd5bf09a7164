"""A succession of LoRAs: each task brings its own, and those before it are summed and frozen."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds.lora import LoRA, concatenate, downs
from lamina.adapters.model import AdaptedModel, Adapter
from lamina.core import Batch, Summary
from lamina.memory.subspace import left_directions, recalled

PAST = "past"
"""The adapter that holds the LoRAs of earlier tasks as one, their ranks stacked in order."""


def succeed(model: AdaptedModel, task_index: int) -> Adapter:
    """Stack the previous task's LoRA on the past, freeze both, and attach a new LoRA,
    `task_<index>`. The model's output stays the same until the new one is trained."""
    if model.active:
        last = model.remove(model.active[-1])
        tensors = last.tensors
        if PAST in model.adapters:
            tensors = concatenate(model.adapters[PAST].tensors, tensors)
        model.keep(PAST, last.kind, tensors)
    new = model.add(f"task_{task_index}", lora_of(model))
    assert new is not None
    return new


def current(model: AdaptedModel) -> Adapter:
    """The LoRA of the task under way."""
    return model.adapters[model.active[-1]]


def lora_of(model: AdaptedModel) -> LoRA:
    """The job's adapter kind, for strategies that train LoRAs only."""
    assert isinstance(model.kind, LoRA), "a succession of LoRAs needs a LoRA"
    return model.kind


def read_free_directions(
    tensors: Tensors, covariances: Mapping[str, Tensor], taken: Mapping[str, Mapping[str, Any]]
) -> None:
    """Let the rows of every A be the leading directions of its module's inputs (of covariance H
    [d_in, d_in]) that no earlier task took, by 1 / sqrt 3 as in InfLoRA's code, and stay; rows for
    which none is left are zero. `taken`: the states of subspaces, by module."""
    for module, a in downs(tensors).items():
        covariance = covariances[module].double()
        free = recalled(taken, module, covariance).outside(covariance)
        rows = left_directions(free)[0].T[: len(a)] / 3**0.5
        a.requires_grad_(False).zero_()
        a[: len(rows)] = rows.to(a.dtype)


def grown_subspaces(
    covariances: Mapping[str, Tensor], taken: Mapping[str, Mapping[str, Any]], threshold: float
) -> dict[str, dict[str, Any]]:
    """The states of subspaces, by module, grown by the directions of a task's inputs (DualGPM)."""
    grown = {}
    for module, total in covariances.items():
        covariance = total.double()
        grown[module] = recalled(taken, module, covariance).grown(covariance, threshold).state()
    return grown


def input_covariances(
    model: AdaptedModel,
    batch: Batch,
    adapters: Sequence[str] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
) -> Summary:
    """Per module that the job's LoRA adapts, the sum of x x^T [d_in, d_in] over its inputs x under
    the given adapters (default: the active ones), as in a call of the model (not centred)."""
    kind = lora_of(model)
    sites = model.backbone.architecture.sites(kind.targets, kind.layers)
    inputs = model.inputs_at(batch.inputs, [site.read for site in sites], adapters, parameters)
    return Summary({module: x.T @ x for module, x in inputs.items()})
