"""The stream of each client: rows of the whole stream's parts, in the client's own order."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Generic

import torch
from torch import Tensor

from lamina.core import (
    PARTS,
    Batch,
    D,
    Experience,
    Part,
    Samples,
    Stream,
    Task,
    joined_values,
)
from lamina.streams.manifest import Delivery, StreamManifest
from lamina.streams.manifest_file import check_fits


class ClientStreams(Generic[D]):
    """Per client a `Stream` of its own, made when it is asked for.

    Nothing is copied beforehand: the whole stream's parts are looked up by row id, and only the
    rows of what is asked for are put together.
    """

    def __init__(self, stream: Stream[D], manifest: StreamManifest) -> None:
        """Raises InputError where the manifest is not of this stream's rows."""
        check_fits(manifest, stream)
        self.stream: Stream[D] = stream
        self.manifest = manifest
        self._parts: list[D] = [each.part(name) for each in stream.experiences for name in PARTS]
        ids = torch.cat([part.ids for part in self._parts])
        sizes = torch.tensor([len(part) for part in self._parts])
        self._ids, order = torch.sort(ids)
        self._part = torch.arange(len(sizes)).repeat_interleave(sizes)[order]
        starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        self._index = (torch.arange(len(ids)) - starts)[order]

    def __len__(self) -> int:
        return len(self.manifest)

    def __iter__(self) -> Iterator[Stream[D]]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, client: int) -> Stream[D]:
        """What a client sees by itself: an experience for each delivery, in the order of arrival.

        Classes keep their numbers in the whole stream; tasks are numbered by their index here and
        keep their names, a number behind them where they come again. A task that comes in several
        deliveries is evaluated on the same rows in each.
        """
        who, seen = self.manifest.clients[client], Counter[int]()
        experiences = []
        for index, delivery in enumerate(self.manifest.deliveries(client)):
            experiences.append(self.experience(delivery, index, seen[delivery.task]))
            seen[delivery.task] += 1
        return replace(
            self.stream,
            name=f"{self.stream.name}/{who.name}",
            experiences=tuple(experiences),
            record={**self.stream.record, "client": who.name, "manifest": self.manifest.hash},
        )

    def experience(self, delivery: Delivery, index: int, before: int = 0) -> Experience[D]:
        """A delivery as the `index`-th experience of its client, `before` of them of the same task:
        its rows to train on, and all the rows that the client has of the task to select by and to
        be tested on (maybe none)."""
        parts: list[D] = [self.rows(delivery.rows)]
        parts += [self.part(delivery.client, name, delivery.task) for name in PARTS[1:]]
        task = _own_task(
            self.stream.experiences[delivery.task].task,
            self.stream.class_names,
            index,
            before,
            parts[0].labels,
        )
        return Experience(task, *(_of_task(part, task) for part in parts))

    def part(self, client: int, part: Part, task: int | None = None) -> D:
        """The rows of a client in one part, of one task or of all."""
        return self.rows(self.manifest.rows(client, part, task))

    def rows(self, ids: Tensor) -> D:
        """The rows with these ids, those of one part of the whole stream after those of another.

        Raises KeyError for an id that is not in the stream.
        """
        found = torch.searchsorted(self._ids, ids).clamp(max=len(self._ids) - 1)
        if not torch.equal(self._ids[found], ids):
            raise KeyError(f"no row {ids[self._ids[found] != ids][0]} in the stream")
        part, index = self._part[found], self._index[found]
        pieces = [self._parts[each][index[part == each]] for each in part.unique().tolist()]
        together: D = _joined(pieces) if pieces else self._parts[0][index]
        return together


def _own_task(
    task: Task, class_names: Sequence[str], index: int, before: int, labels: Tensor
) -> Task:
    """The whole stream's task, and the classes that blur into it, as a client's own."""
    blurred: list[int] = []
    if labels.dim() == 1:
        blurred = sorted(set(labels.tolist()) - set(task.classes))
    names = task.class_names
    if names:
        names = (*names, *(class_names[each] for each in blurred))
    name = f"{task.name} ({before + 1})" if before else task.name
    return Task(index, name, (*task.classes, *blurred), names)


def _joined(pieces: Sequence[Any]) -> Any:
    """The rows of all, one piece after the other."""
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], Batch):
        return Batch.cat(pieces)
    return Samples(
        values=joined_values([piece.values for piece in pieces]),
        labels=torch.cat([piece.labels for piece in pieces]),
        ids=torch.cat([piece.ids for piece in pieces]),
        targets=None
        if pieces[0].targets is None
        else [text for piece in pieces for text in piece.targets],
    )


def _of_task(part: Any, task: Task) -> Any:
    """With the client's task, where the whole stream's batches have theirs."""
    return replace(part, task=task) if isinstance(part, Batch) else part
