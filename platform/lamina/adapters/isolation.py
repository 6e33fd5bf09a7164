"""Isolation: an adapter and a head for each task, over its classes alone; all others frozen."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.routing import among


def isolate(model: AdaptedModel, adapter: str, head: str, num_classes: int) -> None:
    """Freeze what there is, and attach a new adapter and a new head. The common head is not
    used."""
    model.freeze(*model.adapters)
    model.add(adapter)
    model.grow_head(num_classes, head)


def isolated_logits(
    model: AdaptedModel,
    inputs: Mapping[str, Tensor],
    adapter: str,
    head: str,
    classes: Sequence[int],
) -> Tensor:
    """Logits [N, classes seen so far] of one task's adapter (if the job has any) and head;
    impossible for classes that it never saw."""
    adapters = [adapter] if adapter in model.adapters else []
    logits = model(inputs, adapters=adapters, head=head).logits
    return among(logits, classes, model.num_classes(HEAD))
