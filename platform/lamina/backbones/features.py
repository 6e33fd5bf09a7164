"""The feature store: what the frozen layers make of a sample is computed once and kept, for every
trial, epoch, replay and evaluation, for the other hosts of a machine and for later sweeps.

Everything is found by content: a sample by a key made of what the model reads, a folder by the
digest of the weights. Nothing here is random, so what is read back is what would be computed.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lamina.backbones.locate import cache_folder
from lamina.core import LazyInput
from lamina.files import replacing

Inputs = Mapping[str, Tensor | LazyInput]
"""The inputs of a model: tensors, or values that are made when they are needed."""
Compute = Callable[[Mapping[str, Tensor]], Tensor]
"""A computation of frozen layers on N inputs: the numbers of every token [N, S, width], or features
[N, width]."""

_DIGEST = "sha256"
"""Where a file says what its numbers were when it was written: see `_digest`."""
CHUNK_ROWS = 64
"""How many rows are computed at a time."""
TOGETHER_TOKENS = 32_768
"""How many tokens of texts are computed before they are written. Among many texts, more have the
same length."""


def default_folder() -> Path:
    """Where features are kept unless a job says otherwise: `$LAMINA_CACHE`, or the user's cache."""
    return cache_folder() / "features"


@dataclass(frozen=True)
class _Index:
    """Sorted keys, with a row of numbers for each."""

    keys: Tensor
    """int64 [n], sorted, each once."""
    values: Tensor
    """int64 [n, m]."""

    @staticmethod
    def empty(width: int) -> "_Index":
        """An index without keys."""
        nothing = torch.empty(0, dtype=torch.int64)
        return _Index(nothing, nothing.view(0, width))

    def with_new(self, keys: Tensor, values: Tensor) -> "_Index":
        """The index with these keys added. Keys that are known already keep their values."""
        found, first = _distinct(torch.cat([self.keys, keys]))
        return _Index(found, torch.cat([self.values, values])[first])

    def of(self, keys: Tensor) -> Tensor:
        """The values [k, m] of keys; -1 for keys that are unknown."""
        if len(self.keys) == 0:
            return self.values.new_full((len(keys), self.values.shape[1]), -1)
        at = torch.searchsorted(self.keys, keys).clamp_max(len(self.keys) - 1)
        return torch.where((self.keys[at] == keys)[:, None], self.values[at], -1)


def _distinct(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted keys without repetition, and the first position of each."""
    found, inverse = keys.unique(return_inverse=True)
    place = torch.arange(len(keys))
    first = place.new_full((len(found),), len(place)).scatter_reduce(0, inverse, place, "amin")
    return found, first


@dataclass(frozen=True)
class _Group:
    """Samples that came together, and are computed together."""

    inputs: Inputs
    keys: Tensor
    lengths: Tensor
    """Tokens of each text; 1 for a picture."""

    @property
    def is_ragged(self) -> bool:
        """Whether its samples are texts, whose lengths differ."""
        return "attention_mask" in self.inputs


class _Shelf:
    """The cached tokens of one layer: files of this process and of others, each mapped into
    memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The shelves that were not used for longest go first when room is needed.
        os.utime(folder)
        self.folder = folder
        self.locations = _Index.empty(2)
        """For each sample: which file, and its first row of `tokens` there."""
        self.files: list[Tensor] = []
        self._seen: set[str] = set()
        self.look()

    def look(self) -> None:
        """Open the files that are new."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.name not in self._seen:
                content = _read(path)
                if content is None:
                    continue
                self._seen.add(path.name)
                starts = content["lengths"].cumsum(0) - content["lengths"]
                number = torch.full_like(starts, len(self.files))
                locations = torch.stack([number, starts], dim=1)
                self.locations = self.locations.with_new(content["keys"], locations)
                self.files.append(content["tokens"])

    def write(self, keys: Tensor, lengths: Tensor, tokens: Tensor) -> None:
        """Write a file. It is there complete, or not at all."""
        name = sha256(keys.numpy().tobytes()).hexdigest()[:32]
        content = {"keys": keys, "lengths": lengths, "tokens": tokens}
        with replacing(self.folder / f"{name}.safetensors") as unfinished:
            save_file(content, unfinished, {_DIGEST: _digest(content)})
        self.look()


def _read(path: Path) -> dict[str, Tensor] | None:
    """The tensors of a file. A file that was changed since it was written, or that an old version
    wrote without a digest, is deleted: None is returned, and its content is computed again."""
    with suppress(SafetensorError):
        with safe_open(path, "pt") as file:
            written = (file.metadata() or {}).get(_DIGEST)
        content: dict[str, Tensor] = load_file(path)
        if written == _digest(content):
            return content
    path.unlink(missing_ok=True)
    return None


def _digest(content: Mapping[str, Tensor]) -> str:
    """The SHA-256 of the numbers of some tensors, by name."""
    digest = sha256()
    for name, tensor in sorted(content.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class FeatureStore:
    """Features of the samples that one backbone has read, by their keys.

    A file of the folder holds samples that came together in one part of a stream. Two hosts that
    need the same group share the work: the second computes other groups that are missing, or waits.
    Texts are computed with others of the same length. So no padding is computed, and a sample's
    features do not depend on the rest of its batch.
    """

    def __init__(self, folder: Path, backbone: str, max_bytes: int) -> None:
        """`backbone` names the frozen weights and how they compute; all that is below `folder`
        never grows beyond `max_bytes`."""
        self._root = folder
        self._folder = folder / backbone
        self._max_bytes = max_bytes
        self._known = _Index.empty(2)
        """For each sample: its length, and the group that it came in."""
        self._num_tokens = 0
        self._groups: list[_Group] = []
        self._shelves: dict[str, _Shelf] = {}
        self._full: set[str] = set()
        """Names of layers for which there is no more room."""
        self.refusal: str | None = None
        """Why something is not kept."""

    def register(self, inputs: Inputs) -> Tensor | None:
        """The keys int64 [N] of samples, the same for the same content in every process (64 bits of
        a BLAKE2 digest).

        None where texts are padded on the left: their tokens have no known positions.
        """
        mask = _mask_of(inputs)
        if mask is not None and bool((mask.diff(dim=1) > 0).any()):
            return None
        keys = _keys(inputs, mask)
        lengths = torch.ones_like(keys) if mask is None else mask.sum(dim=1)
        group = torch.full_like(keys, len(self._groups))
        self._groups.append(_Group(inputs, keys, lengths))
        self._known = self._known.with_new(keys, torch.stack([lengths, group], dim=1))
        self._num_tokens = int(self._known.values[:, 0].sum())
        return keys

    def features(self, keys: Tensor, compute: Compute) -> Tensor | None:
        """Features of the whole backbone, float32 [N, dim]. None where they are not cached."""
        found = self._filled("features", keys, compute)
        return None if found is None else _gathered(*found)

    def tokens(self, name: str, keys: Tensor, compute: Compute) -> Tensor | None:
        """The numbers that are cached under a name for every token of samples: [N, S, width] for
        pictures; [T, width] for texts, one after the other without padding. None where they are not
        cached."""
        found = self._filled(name, keys, compute)
        if found is None:
            return None
        shelf, locations = found
        if shelf.files[0].dim() == 3:
            return _gathered(shelf, locations)
        lengths = self._known.of(keys)[:, 0]
        locations = locations.repeat_interleave(lengths, dim=0)
        before = (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
        locations[:, 1] += torch.arange(len(locations)) - before
        return _gathered(shelf, locations)

    def fits(self, width: int) -> bool:
        """Whether this many bytes per token, for all known samples, take at most half the room."""
        return self._num_tokens * width <= self._max_bytes // 2

    def _filled(self, name: str, keys: Tensor, compute: Compute) -> tuple[_Shelf, Tensor] | None:
        """The shelf of a layer, filled with all of these samples, and their locations there. None
        where a sample is unknown, or there is no room."""
        shelf = self._shelves.get(name)
        if shelf is None:
            shelf = self._shelves[name] = _Shelf(self._folder / name)
        while bool((absent := (locations := shelf.locations.of(keys))[:, 0] < 0).any()):
            group = int(self._known.of(keys[absent][:1])[0, 1])
            if group < 0 or name in self._full:
                return None
            if not self._fill(shelf, group, compute):
                self._full.add(name)
                return None
        return shelf, locations

    def _fill(self, shelf: _Shelf, wanted: int, compute: Compute) -> bool:
        """Compute a group and some others with it; while another process computes it, compute
        others. Returns whether there was room."""
        shelf.look()
        with ExitStack() as held:
            groups = [self._groups[number] for number in self._claimed(shelf, wanted, held)]
            return self._compute(shelf, groups, compute)

    def _claimed(self, shelf: _Shelf, wanted: int, held: ExitStack) -> list[int]:
        """Groups that no other process computes as long as `held` is open. For texts they are a
        quarter of what is missing: that shares the work between hosts, and many of so many texts
        have one length. For pictures it is a single group."""
        missing = shelf.locations.of(self._known.keys)[:, 0] < 0
        tokens = torch.zeros(len(self._groups), dtype=torch.int64)
        lengths, numbers = self._known.values[missing].unbind(1)
        tokens.index_add_(0, numbers, lengths)
        most = min(int(tokens.sum()) // 4, TOGETHER_TOKENS)
        claimed: list[int] = []
        for number in [wanted, *(n for n in tokens.nonzero()[:, 0].tolist() if n != wanted)]:
            with suppress(Timeout):
                held.enter_context(self._lock(shelf, number, blocking=False))
                claimed.append(number)
            enough = int(tokens[claimed].sum()) >= most
            if claimed and (enough or not self._groups[number].is_ragged):
                break
        if not claimed:
            held.enter_context(self._lock(shelf, wanted, blocking=True))
        return claimed or [wanted]

    def _lock(self, shelf: _Shelf, number: int, *, blocking: bool) -> FileLock:
        """The lock that a process holds while it computes a group."""
        name = sha256(self._groups[number].keys.numpy().tobytes()).hexdigest()[:32]
        return FileLock(shelf.folder / f"{name}.lock", blocking=blocking)

    def _compute(self, shelf: _Shelf, groups: Sequence[_Group], compute: Compute) -> bool:
        shelf.look()
        absent = [(shelf.locations.of(group.keys)[:, 0] < 0).nonzero()[:, 0] for group in groups]
        owner = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(r) for r in absent]))
        row = torch.cat(absent)
        if len(row) == 0:
            return True
        keys, lengths = (
            torch.cat([of_group[rows] for of_group, rows in zip(columns, absent, strict=True)])
            for columns in ([group.keys for group in groups], [group.lengths for group in groups])
        )
        # Each sample once, the shortest first, and those of one length in the order of the groups.
        once = _distinct(keys)[1].sort().values
        order = once[torch.argsort(lengths[once], stable=True)]
        owner, row, keys, lengths = owner[order], row[order], keys[order], lengths[order]
        chunks: list[Tensor] = []
        for at in _of_one_length(lengths):
            made = compute(_cut(groups, owner[at], row[at], int(lengths[at[0]]))).cpu()
            # Every token of a text is a row of the file; of a picture, all tokens together are.
            is_ragged = groups[0].is_ragged and made.dim() == 3
            sizes = lengths if is_ragged else torch.ones_like(lengths)
            made = made.flatten(0, 1) if is_ragged else made
            if not chunks and not self._makes_room(_size(made[0]) * int(sizes.sum())):
                return len(groups) > 1 and self._compute(shelf, groups[:1], compute)
            chunks.append(made)
        tokens = torch.cat(chunks)
        owner_of_token = owner.repeat_interleave(sizes)
        for number in owner.unique().tolist():
            own = owner == number
            shelf.write(keys[own], sizes[own], tokens[owner_of_token == number])
        return True

    def _makes_room(self, wanted: int) -> bool:
        """Whether this many bytes more fit. To make room, the least recently used shelves that this
        process has not opened are deleted."""
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


def _gathered(shelf: _Shelf, locations: Tensor) -> Tensor:
    """The cached row of each sample, by its location in the files."""
    files, starts = locations.unbind(1)
    first, *others = files.unique().tolist()
    if not others:
        return shelf.files[first].index_select(0, starts)
    gathered = shelf.files[first].new_empty(len(locations), *shelf.files[first].shape[1:])
    for number in (first, *others):
        own = (files == number).nonzero()[:, 0]
        gathered.index_copy_(0, own, shelf.files[number].index_select(0, starts[own]))
    return gathered


def _of_one_length(lengths: Tensor) -> Iterator[Tensor]:
    """Positions of sorted lengths in chunks; all lengths of a chunk are equal."""
    _, counts = lengths.unique_consecutive(return_counts=True)
    for positions in torch.arange(len(lengths)).split(counts.tolist()):
        yield from positions.split(CHUNK_ROWS)


def _cut(groups: Sequence[_Group], owner: Tensor, row: Tensor, length: int) -> dict[str, Tensor]:
    """The inputs of some rows of groups, in the order of the groups. Texts are cut to their first
    `length` tokens."""
    cut = []
    for number in owner.unique().tolist():
        inputs, own = groups[number].inputs, row[owner == number]
        mask = _mask_of(inputs)
        cut.append(
            {
                name: value[own, :length] if _is_of_tokens(value, mask) else value[own]
                for name, value in inputs.items()
            }
        )
    return {name: torch.cat([each[name] for each in cut]) for name in cut[0]}


def _mask_of(inputs: Inputs) -> Tensor | None:
    """The mask of texts; None for other inputs."""
    mask = inputs.get("attention_mask")
    assert not isinstance(mask, LazyInput), "texts are encoded at once"
    return mask


def _keys(inputs: Inputs, mask: Tensor | None) -> Tensor:
    """A key for each row: a digest of what the model reads of it, without padding. A value that is
    not made yet has a digest of its own."""
    num_rows = len(next(iter(inputs.values())))
    lengths = [None] * num_rows if mask is None else mask.sum(dim=1).tolist()
    lazy = [
        (name.encode(), value)
        for name, value in sorted(inputs.items())
        if isinstance(value, LazyInput)
    ]
    columns = [
        (name.encode(), value.contiguous().numpy(), _is_of_tokens(value, mask))
        for name, value in sorted(inputs.items())
        if isinstance(value, Tensor)
    ]
    keys = []
    for row, length in enumerate(lengths):
        digest = blake2b(digest_size=8)
        for name, later in lazy:
            digest.update(name)
            digest.update(later.digest(row))
        for name, values, is_of_tokens in columns:
            digest.update(name)
            read = values[row, :length] if is_of_tokens else values[row]
            digest.update(read.tobytes())
        keys.append(int.from_bytes(digest.digest(), "big", signed=True))
    return torch.tensor(keys, dtype=torch.int64)


def _is_of_tokens(value: Tensor | LazyInput, mask: Tensor | None) -> bool:
    return mask is not None and isinstance(value, Tensor) and value.shape == mask.shape


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _taken(folder: Path) -> int:
    """The size in bytes of all features below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
