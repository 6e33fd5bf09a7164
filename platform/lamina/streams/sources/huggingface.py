"""Any data set that Hugging Face `datasets` reads: a hub id, a local file or a local folder."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from lamina.core import Modality, Part
from lamina.registry import InputError, unknown
from lamina.streams.base import Source, Table

_READERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass(frozen=True)
class HuggingFace(Source):
    """Texts or images with a label each, read through `datasets.load_dataset`.

    Rows are held in memory, images as uint8 tensors [height, width, 3]. A row that is equal to
    another one, but for case and spaces, goes to the same part as it where parts are carved.
    """

    path: str
    """A file (csv, json, jsonl, parquet), a folder (of such files, or of images) or a hub id."""
    config: str | None = None
    """Which configuration of the data set, where a hub id or a folder has several."""
    text_column: str | None = None
    """The column of texts; this or `image_column` must be given."""
    image_column: str | None = None
    """The column of images; a folder of images calls it `image`."""
    label_column: str = "label"
    """The column of classes: class labels, texts or numbers."""
    task_column: str | None = None
    """The column of natural tasks (topics, domains), if there is one."""
    client_column: str | None = None
    """The column of whom a row belongs to (a user, a site), if there is one: the natural clients of
    a federation."""
    train_split: str = "train"
    """The split to train on; a single file is one split called `train`."""
    validation_split: str | None = None
    """The split to select on; null carves it out of the training split."""
    test_split: str | None = None
    """The split to report on; null carves it out of the training split."""

    def __post_init__(self) -> None:
        if (self.text_column is None) == (self.image_column is None):
            raise InputError(
                "stream.text_column: give this or stream.image_column, and not both "
                f"(given: {self.text_column!r} and {self.image_column!r})"
            )

    @property
    def modality(self) -> Modality:
        """As the column that is given."""
        return "image" if self.text_column is None else "text"

    def load(self, seed: int) -> Table:
        """All rows, split by split, whatever the seed.

        Raises InputError where the data cannot be found or read, a split or a column is not there,
        or a row lacks its value or label.
        """
        splits = _read(self.path, self.config)
        chosen = self._chosen(splits)
        self._check_columns(splits[self.train_split])
        values: list[Any] = []
        labels: list[Any] = []
        groups: list[str] = []
        owners: list[str] = []
        parts: list[Part] = []
        for part, split in chosen.items():
            data = splits[split]
            if self.text_column is not None:
                values += _texts(data, self.text_column)
            if self.image_column is not None:
                values += _images(data, self.image_column)
            labels += _labels(data, self.label_column)
            if self.task_column is not None:
                groups += map(str, _filled(data, "task_column", self.task_column))
            if self.client_column is not None:
                owners += map(str, _filled(data, "client_column", self.client_column))
            parts += [part] * len(data)
        texts = values if self.text_column is not None else None
        return Table(
            modality=self.modality,
            values=values,
            labels=[str(label) for label in labels],
            classes=_natural_order(splits[self.train_split].features[self.label_column], labels),
            groups=groups or None,
            parts=parts,
            templates=texts and [" ".join(text.casefold().split()) for text in texts],
            owners={} if self.client_column is None else {self.client_column: owners},
        )

    def _chosen(self, splits: Mapping[str, Any]) -> dict[Part, str]:
        """The split of each part that the job names one for."""
        named: dict[Part, str | None] = {
            "train": self.train_split,
            "validation": self.validation_split,
            "test": self.test_split,
        }
        chosen = {part: split for part, split in named.items() if split is not None}
        for part, split in chosen.items():
            if split not in splits:
                raise unknown(f"stream.{part}_split", split, list(splits))
            if len(splits[split]) == 0:
                raise InputError(f"stream.{part}_split: {split!r} of {self.path!r} has no rows")
        return chosen

    def _check_columns(self, data: Any) -> None:
        for key in ("text_column", "image_column", "label_column", "task_column", "client_column"):
            column = getattr(self, key)
            if column is not None and column not in data.column_names:
                raise unknown(f"stream.{key}", column, data.column_names)


def _read(path: str, config: str | None) -> Mapping[str, Any]:
    """The splits by name."""
    local = Path(path).expanduser()
    if local.is_file():
        if local.suffix not in _READERS:
            raise InputError(
                f"stream.path: {path!r} is of no kind that is read (allowed: {', '.join(_READERS)})"
            )
        return _loaded(path, _READERS[local.suffix], data_files=str(local.resolve()))
    if local.is_dir():
        return _loaded(path, str(local.resolve()), name=config)
    # A hub id is `name` or `owner/name`, so anything else is a file that is not there.
    if local.suffix in _READERS or path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise InputError(f"stream.path: {path!r} does not exist{_nearest(local)}")
    return _loaded(path, path, name=config)


def _nearest(missing: Path) -> str:
    """What lies where the missing file should and has a name like it."""
    there = {each.name for each in missing.parent.glob("*")}
    near = get_close_matches(missing.name, there, n=1)
    return f" (did you mean {str(missing.with_name(near[0]))!r}?)" if near else ""


def _loaded(given: str, path: str, **options: Any) -> Mapping[str, Any]:
    import datasets

    with _quiet(datasets):
        try:
            splits: Mapping[str, Any] = datasets.load_dataset(path, **options)
        except ConnectionError as error:
            raise InputError(
                f"stream.path: {given!r} is no file or folder{_nearest(Path(given))}, and the hub, "
                "which may have a data set of that name, cannot be reached"
            ) from error
        except datasets.exceptions.DatasetNotFoundError as error:
            raise InputError(
                f"stream.path: {given!r} is no file or folder{_nearest(Path(given))}, and no data "
                "set of the hub that can be had without a login"
            ) from error
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            reason = " ".join(str(error.__cause__ or error).split())
            if "corresponds to no data" in reason:
                raise InputError(f"stream.path: {given!r} has no rows") from error
            key = "config" if reason.startswith(("BuilderConfig", "Config name")) else "path"
            raise InputError(f"stream.{key}: {given!r} cannot be read: {reason}") from error
    return splits


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the progress bars of `datasets`, which break up the lines of a log."""
    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


def _filled(data: Any, key: str, column: str) -> list[Any]:
    """The values of a column, none of them missing."""
    values = list(data[column])
    for row, value in enumerate(values):
        if value is None or value != value:
            raise InputError(
                f"stream.{key}: {column!r} is empty in row {row + 1} of split {str(data.split)!r}"
            )
    return values


def _texts(data: Any, column: str) -> list[str]:
    kind = data.features[column]
    if getattr(kind, "dtype", None) not in ("string", "large_string"):
        raise InputError(f"stream.text_column: {column!r} has no texts but {kind}")
    return _filled(data, "text_column", column)


def _images(data: Any, column: str) -> list[torch.Tensor]:
    import numpy
    from datasets import Image

    kind = data.features[column]
    if not isinstance(kind, Image):
        raise InputError(f"stream.image_column: {column!r} has no images but {kind}")
    return [
        torch.from_numpy(numpy.array(image.convert("RGB")))
        for image in _filled(data, "image_column", column)
    ]


def _labels(data: Any, column: str) -> list[Any]:
    """The label of every row: a class label's name, or a text or number as it is."""
    from datasets import ClassLabel

    kind = data.features[column]
    values = _filled(data, "label_column", column)
    if isinstance(kind, ClassLabel):
        for row, value in enumerate(values):
            if value < 0:
                raise InputError(
                    f"stream.label_column: {column!r} is hidden (-1) in row {row + 1} of split "
                    f"{str(data.split)!r}; name another split"
                )
        return [kind.names[value] for value in values]
    if not isinstance(values[0], str | int | float):
        raise InputError(f"stream.label_column: {column!r} has no classes but {kind}")
    return values


def _natural_order(kind: Any, labels: Sequence[Any]) -> list[str]:
    """The labels that occur: as the data set lists them, or else by number or alphabet."""
    names = getattr(kind, "names", None)
    occurring = set(labels)
    ordered = [name for name in names if name in occurring] if names else sorted(occurring)
    return [str(label) for label in ordered]
