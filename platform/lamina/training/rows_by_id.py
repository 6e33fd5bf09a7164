"""The training rows of a stream by their ids: where replay finds its exemplars."""

import torch
from torch import Tensor

from lamina.core import Batch, Stream


class RowsById:
    """Looks rows up in the experiences that hold them; nothing is copied until it is asked for."""

    def __init__(self, stream: Stream[Batch]) -> None:
        self._pieces = [experience.train for experience in stream.experiences]
        ids = torch.cat([piece.ids for piece in self._pieces])
        self._order = torch.argsort(ids)
        self._ids = ids[self._order]
        self._starts = torch.tensor([0, *(len(piece) for piece in self._pieces)]).cumsum(0)

    def __call__(self, ids: Tensor) -> Batch:
        """The rows with these ids, in this order, trimmed. Raises KeyError for an id that is not in
        the stream."""
        found = torch.searchsorted(self._ids, ids).clamp_max(len(self._ids) - 1)
        if not torch.equal(self._ids[found], ids):
            raise KeyError(f"no training row with id {ids[self._ids[found] != ids][0].item()}")
        positions = self._order[found]
        pieces = torch.searchsorted(self._starts, positions, right=True) - 1
        used = pieces.unique()
        batch = Batch.cat([self._pieces[p][positions[pieces == p] - self._starts[p]] for p in used])
        back = torch.cat([(pieces == p).nonzero()[:, 0] for p in used]).argsort()
        return batch[back].trimmed()
