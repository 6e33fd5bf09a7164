"""The feature store: what the frozen layers make of a sample is computed once and kept, for every
trial, epoch, replay and evaluation, for the other hosts of a machine and for later sweeps.

Everything is found by content: a sample by a key made of what the model reads, a folder by the
digest of the weights. Nothing here is random, so what is read back is what would be computed.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

Compute = Callable[[Mapping[str, Tensor]], Tensor]
"""The frozen part on N inputs: tokens [N, S, dim], or features [N, dim]."""

CHUNK_ROWS = 64
"""Rows that are computed at a time."""


def default_folder() -> Path:
    """Where features are kept unless a job says otherwise: `$LAMINA_CACHE`, or the user's cache."""
    return Path(os.environ.get("LAMINA_CACHE") or Path.home() / ".cache" / "lamina") / "features"


@dataclass(frozen=True)
class _Index:
    """Keys in order, and of each a row of numbers."""

    keys: Tensor
    """int64 [n], sorted, each once."""
    values: Tensor
    """int64 [n, m]."""

    @staticmethod
    def empty(width: int) -> "_Index":
        """Of nothing."""
        nothing = torch.empty(0, dtype=torch.int64)
        return _Index(nothing, nothing.view(0, width))

    def with_new(self, keys: Tensor, values: Tensor) -> "_Index":
        """These keys as well; what is known already stays as it is."""
        everything = torch.cat([self.keys, keys])
        found, inverse = everything.unique(return_inverse=True)
        place = torch.arange(len(everything))
        first = place.new_full((len(found),), len(place)).scatter_reduce(0, inverse, place, "amin")
        return _Index(found, torch.cat([self.values, values])[first])

    def of(self, keys: Tensor) -> Tensor:
        """The values [k, m] of keys; -1 for those that are not there."""
        if len(self.keys) == 0:
            return self.values.new_full((len(keys), self.values.shape[1]), -1)
        at = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where((self.keys[at] == keys)[:, None], self.values[at], -1)


@dataclass(frozen=True)
class _Part:
    """Samples that came together, and are computed together."""

    inputs: Mapping[str, Tensor]
    keys: Tensor
    lengths: Tensor
    """Tokens of each text; 1 for a picture."""


class _Shelf:
    """What one layer reads: files of this and of other processes, each mapped into memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The shelves that were not used for longest go first when room is needed.
        os.utime(folder)
        self.folder = folder
        self.places = _Index.empty(2)
        """Of each sample: which file, and its first row of `tokens` there."""
        self.files: list[Tensor] = []
        self._seen: set[str] = set()
        self.look()

    def look(self) -> None:
        """Take in the files that are new."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._seen:
                self._seen.add(path.name)
                content = load_file(path)
                starts = content["lengths"].cumsum(0) - content["lengths"]
                number = torch.full_like(starts, len(self.files))
                places = torch.stack([number, starts], dim=1)
                self.places = self.places.with_new(content["keys"], places)
                self.files.append(content["tokens"])

    def write(self, keys: Tensor, lengths: Tensor, tokens: Tensor) -> None:
        """Add a file, complete or not at all."""
        name = sha256(keys.numpy().tobytes()).hexdigest()[:32]
        part = self.folder / f"{name}.{os.getpid()}.part"
        save_file({"keys": keys, "lengths": lengths, "tokens": tokens}, part)
        part.replace(self.folder / f"{name}.safetensors")
        self.look()


class FeatureStore:
    """Features of the samples that one backbone has been shown, by their keys.

    A file of the folder holds samples that came together in one part of a stream. Two hosts that
    need the same part share the work: the second computes another part that is missing, or waits.
    Texts are computed with others of their length, so that no padding is computed and a sample's
    features do not depend on its company.
    """

    def __init__(self, folder: Path, backbone: str, max_bytes: int) -> None:
        """`backbone` names the frozen weights and how they compute; all that is below `folder`
        never grows beyond `max_bytes`."""
        self._root = folder
        self._folder = folder / backbone
        self._max_bytes = max_bytes
        self._known = _Index.empty(2)
        """Of each sample: its length, and the part that it came in."""
        self._parts: list[_Part] = []
        self._shelves: dict[str, _Shelf] = {}
        self.refusal: str | None = None
        """Why something is not kept."""

    def register(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The keys int64 [N] of samples, the same for the same content in every process (64 bits of
        a BLAKE2 digest).

        None where texts are padded on the left: their tokens have no known places.
        """
        mask = inputs.get("attention_mask")
        if mask is not None and bool((mask.diff(dim=1) > 0).any()):
            return None
        keys = _keys(inputs, mask)
        lengths = torch.ones_like(keys) if mask is None else mask.sum(dim=1)
        part = torch.full_like(keys, len(self._parts))
        self._parts.append(_Part(inputs, keys, lengths))
        self._known = self._known.with_new(keys, torch.stack([lengths, part], dim=1))
        return keys

    def features(self, keys: Tensor, compute: Compute) -> Tensor | None:
        """What the whole backbone says of samples, float32 [N, dim]. None where it is not kept."""
        found = self._filled("features", keys, compute)
        return None if found is None else _gathered(*found)

    def tokens(self, layer: int, keys: Tensor, width: int, compute: Compute) -> Tensor | None:
        """What enters a layer for samples, [N, S, dim]; texts are padded with zeros to S = `width`.
        None where it is not kept."""
        found = self._filled(f"layer_{layer:02d}", keys, compute)
        if found is None:
            return None
        shelf, places = found
        if shelf.files[0].dim() == 3:
            return _gathered(shelf, places)
        lengths = self._known.of(keys)[:, 0]
        row, column = (torch.arange(width) < lengths[:, None]).nonzero().unbind(1)
        files, starts = places.unbind(1)
        padded = shelf.files[0].new_zeros(len(keys) * width, shelf.files[0].shape[1])
        for number in files.unique().tolist():
            read = files[row] == number
            tokens = starts[row[read]] + column[read]
            at = row[read] * width + column[read]
            padded.index_copy_(0, at, shelf.files[number].index_select(0, tokens))
        return padded.view(len(keys), width, -1)

    def _filled(self, name: str, keys: Tensor, compute: Compute) -> tuple[_Shelf, Tensor] | None:
        """The shelf of a layer with all of these samples on it, and their places there; None where
        one is unknown, or there is no room."""
        shelf = self._shelves.get(name)
        if shelf is None:
            shelf = self._shelves[name] = _Shelf(self._folder / name)
        while bool((absent := (places := shelf.places.of(keys))[:, 0] < 0).any()):
            part = int(self._known.of(keys[absent][:1])[0, 1])
            if part < 0 or not self._fill(shelf, part, compute):
                return None
        return shelf, places

    def _fill(self, shelf: _Shelf, wanted: int, compute: Compute) -> bool:
        """Compute a part, or another one while somebody else computes it. Returns whether there was
        room."""
        known = self._known
        absent = known.values[shelf.places.of(known.keys)[:, 0] < 0, 1].unique().tolist()
        for number in [wanted, *(each for each in absent if each != wanted)]:
            try:
                with self._lock(shelf, number, blocking=False):
                    return self._compute(shelf, self._parts[number], compute)
            except Timeout:
                continue
        with self._lock(shelf, wanted, blocking=True):
            return self._compute(shelf, self._parts[wanted], compute)

    def _lock(self, shelf: _Shelf, number: int, *, blocking: bool) -> FileLock:
        """What one process at a time holds while it computes a part."""
        name = sha256(self._parts[number].keys.numpy().tobytes()).hexdigest()[:32]
        return FileLock(shelf.folder / f"{name}.lock", blocking=blocking)

    def _compute(self, shelf: _Shelf, part: _Part, compute: Compute) -> bool:
        shelf.look()
        rows = (shelf.places.of(part.keys)[:, 0] < 0).nonzero()[:, 0]
        if len(rows) == 0:
            return True
        rows = rows[torch.argsort(part.lengths[rows], stable=True)]
        lengths = part.lengths[rows]
        chunks: list[Tensor] = []
        for positions in _of_one_length(lengths):
            made = compute(_cut(part.inputs, rows[positions], int(lengths[positions[0]]))).cpu()
            # Every token of a text is a row of the file; of a picture, all tokens together are.
            is_ragged = "attention_mask" in part.inputs and made.dim() == 3
            sizes = lengths if is_ragged else torch.ones_like(lengths)
            made = made.flatten(0, 1) if is_ragged else made
            if not chunks and not self._makes_room(_size(made[0]) * int(sizes.sum())):
                return False
            chunks.append(made)
        shelf.write(part.keys[rows], sizes, torch.cat(chunks))
        return True

    def _makes_room(self, wanted: int) -> bool:
        """Whether so many bytes more fit, after those shelves are deleted that were not used for
        longest and that this process has not opened."""
        own = {shelf.folder for shelf in self._shelves.values()}
        others = [each for each in self._root.glob("*/*") if each not in own and each.is_dir()]
        others.sort(key=lambda folder: folder.stat().st_mtime, reverse=True)
        while (taken := _taken(self._root)) + wanted > self._max_bytes:
            if not others:
                self.refusal = (
                    f"{wanted / 1e9:.2f} GB of features do not fit beside {taken / 1e9:.2f} GB "
                    f"(allowed: {self._max_bytes / 1e9:.2f} GB in all)"
                )
                return False
            shutil.rmtree(others.pop(), ignore_errors=True)
        return True


def _gathered(shelf: _Shelf, places: Tensor) -> Tensor:
    """A row of a file for each sample, by its place."""
    files, starts = places.unbind(1)
    first, *others = files.unique().tolist()
    if not others:
        return shelf.files[first].index_select(0, starts)
    gathered = shelf.files[first].new_empty(len(places), *shelf.files[first].shape[1:])
    for number in (first, *others):
        own = files == number
        gathered[own] = shelf.files[number].index_select(0, starts[own])
    return gathered


def _of_one_length(lengths: Tensor) -> Iterator[Tensor]:
    """Positions of sorted lengths, a chunk at a time, no chunk of two lengths."""
    _, counts = lengths.unique_consecutive(return_counts=True)
    for positions in torch.arange(len(lengths)).split(counts.tolist()):
        yield from positions.split(CHUNK_ROWS)


def _cut(inputs: Mapping[str, Tensor], rows: Tensor, length: int) -> dict[str, Tensor]:
    """The given rows; of texts, their first `length` tokens."""
    mask = inputs.get("attention_mask")
    return {
        name: value[rows][:, :length] if _is_of_tokens(value, mask) else value[rows]
        for name, value in inputs.items()
    }


def _keys(inputs: Mapping[str, Tensor], mask: Tensor | None) -> Tensor:
    """Of what the model reads of each row, without padding."""
    num_rows = len(next(iter(inputs.values())))
    lengths = [None] * num_rows if mask is None else mask.sum(dim=1).tolist()
    columns = [
        (name.encode(), inputs[name].contiguous().numpy(), _is_of_tokens(inputs[name], mask))
        for name in sorted(inputs)
    ]
    keys = []
    for row, length in enumerate(lengths):
        digest = blake2b(digest_size=8)
        for name, values, is_of_tokens in columns:
            digest.update(name)
            read = values[row, :length] if is_of_tokens else values[row]
            digest.update(read.tobytes())
        keys.append(int.from_bytes(digest.digest(), "big", signed=True))
    return torch.tensor(keys, dtype=torch.int64)


def _is_of_tokens(value: Tensor, mask: Tensor | None) -> bool:
    return mask is not None and value.shape == mask.shape


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _taken(folder: Path) -> int:
    """Bytes of all features below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
