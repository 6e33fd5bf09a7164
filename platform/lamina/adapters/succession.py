"""A succession of LoRAs: each task brings its own, and those before it are summed and frozen."""

from lamina.adapters.kinds.lora import LoRA, concatenate
from lamina.adapters.model import AdaptedModel, Adapter
from lamina.core import Batch, Summary

PAST = "past"
"""The adapter that holds the LoRAs of earlier tasks as one, their ranks stacked in order."""


def succeed(model: AdaptedModel, task_index: int) -> Adapter:
    """Stack the task's predecessor on the past, freeze both, and attach a new LoRA, `task_<index>`.

    What the model computes stays the same until the new one is trained.
    """
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


def input_covariances(model: AdaptedModel, batch: Batch) -> Summary:
    """Per module that the job's LoRA adapts, the sum of x x^T [d_in, d_in] over its inputs x under
    the active adapters (not centred)."""
    kind = lora_of(model)
    sites = model.backbone.architecture.sites(kind.targets, kind.layers)
    inputs = model.inputs_at(batch.inputs, [site.read for site in sites])
    return Summary({module: x.T @ x for module, x in inputs.items()})
