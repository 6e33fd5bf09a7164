"""Notes: tensors that a strategy keeps beside its exemplars."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch
from lamina.memory.memory import Note
from lamina.strategies.base import Strategy


def notes_of(strategy: Strategy, model: AdaptedModel, batch_size: int) -> Note:
    """`strategy.annotate` on any number of rows, `batch_size` of them at a time."""

    def note(rows: Batch) -> Mapping[str, Tensor]:
        device = model.backbone.device
        notes = [strategy.annotate(model, each.to(device)) for each in rows.chunks(batch_size)]
        return {name: torch.cat([each[name] for each in notes]) for name in notes[0]}

    return note
