"""Which files a data set has, split by split: a file, several, a folder, or a hub id."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from glob import glob
from pathlib import Path, PurePosixPath
from typing import Any

from lamina.registry import InputError
from lamina.streams.tables import KINDS, Columns, Format, arrow_columns, kind_of, read_table

Read = Callable[[Sequence[str]], Columns]
"""Reads those of the given columns that are there."""

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""The name that `datasets` gives to the table beside a folder of images."""
_OWN = ("csv", "json", "parquet")
"""Builders of `datasets` whose files are read here, because `datasets` guesses types and reads one
file's class labels by another's list."""


@dataclass(frozen=True)
class DataSet:
    """The data that was found under a path."""

    splits: Mapping[str, Sequence[Read]]
    """By name, what reads each file of a split."""
    kinds: frozenset[str] = field(default_factory=frozenset)
    """csv, json, parquet, images, or else what `datasets` calls it."""
    left_out: Sequence[str] = ()
    """Files that lie beside images and are no images by their names."""

    def check_form(self, form: Format, path: str) -> None:
        """Raises InputError for a key that says how other files than these are read."""
        plain, tables = Format(), {"csv", "images"}
        readers = {
            "delimiter": (tables, "csv files"),
            "quote": (tables, "csv files"),
            "field": ({"json"}, "JSON files"),
            "encoding": (tables | {"json"}, "csv and JSON files"),
        }
        for key, (kinds, words) in readers.items():
            given = getattr(form, key)
            if given != getattr(plain, key) and not self.kinds & kinds:
                raise InputError(
                    f"stream.{key}: {given!r} changes nothing for {path!r}: it is for {words} "
                    f"(found: {', '.join(sorted(self.kinds))})"
                )


def find(path: str, config: str | None, revision: str | None, form: Format) -> DataSet:
    """The data set at `path`.

    Raises InputError, naming the job's key, where there is none, or where a key is given that is
    for other files.
    """
    if not path.strip():
        raise InputError(f"stream.path: {path!r} is no path (allowed: a file, a folder, a hub id)")
    local = Path(path).expanduser()
    try:
        local.exists()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        shown = path if len(path) <= 80 else f"{path[:77]}..."
        raise InputError(f"stream.path: {shown!r} cannot be read: {reason}") from None
    if revision is not None and (local.exists() or glob(str(local))):
        raise InputError(
            f"stream.revision: {revision!r} is of the hub, and {path!r} is on this disk "
            "(allowed: null)"
        )
    if local.is_file():
        return _of_files([local], [path], form)
    if local.is_dir():
        return _of_builder(path, str(local.resolve()), config, None, form)
    if files := sorted(each for each in glob(str(local), recursive=True) if Path(each).is_file()):
        return _of_files([Path(each) for each in files], files, form)
    # A hub id is `name` or `owner/name`, so anything else is a file that is not there.
    if (
        kind_of(local) is not None
        or path.startswith((".", "/", "~"))
        or path.count("/") > 1
        or "*" in path
    ):
        raise InputError(f"stream.path: {path!r} does not exist{_nearest(local)}")
    return _of_builder(path, path, config, revision, form)


def _of_files(files: Sequence[Path], names: Sequence[str], form: Format) -> DataSet:
    """One split called `train`."""
    readers = []
    for file, name in zip(files, names, strict=True):
        if kind_of(file) is None:
            raise InputError(
                f"stream.path: {name!r} is of no kind that is read (allowed: {', '.join(KINDS)}, "
                "also with .gz, .bz2 or .xz behind)"
            )
        readers.append(_reader(file.resolve(), name, form, {}))
    return DataSet({"train": readers}, frozenset(str(kind_of(each)) for each in files))


def _reader(file: Path, name: str, form: Format, declared: Mapping[str, Sequence[str]]) -> Read:
    return lambda wanted: read_table(file, wanted, form, declared, name)


def _nearest(missing: Path) -> str:
    """What lies where the missing file should and has a name like it."""
    there = {each.name for each in missing.parent.glob("*")}
    near = get_close_matches(missing.name, there, n=1)
    return f" (did you mean {str(missing.with_name(near[0]))!r}?)" if near else ""


def _of_builder(
    given: str, path: str, config: str | None, revision: str | None, form: Format
) -> DataSet:
    """The data that `datasets` finds in a folder or on the hub."""
    import datasets

    with _as_input_errors(given):
        builder = datasets.load_dataset_builder(path, name=config, revision=revision)
        listed = _listed(builder.info.features)
        kind = builder.name
        if kind in _OWN:
            files = _downloaded(builder.config.data_files, given, path)
            readers = {
                split: [_reader(file, name, form, listed) for file, name in each]
                for split, each in files.items()
            }
            return DataSet(readers, frozenset({kind}))
        if kind == "imagefolder" and Path(path).is_dir():
            files = _downloaded(builder.config.data_files, given, path)
            if not any(_is_archive(name) for each in files.values() for _, name in each):
                pictures = {
                    split: [(file, name) for file, name in each if _is_picture(name, builder)]
                    for split, each in files.items()
                }
                left_out = _beside(pair for each in pictures.values() for pair in each)
                return DataSet(_image_folder(pictures, form), frozenset({"images"}), left_out)
        with _quiet():
            builder.download_and_prepare()
            loaded = builder.as_dataset()
    return DataSet(
        {split: [_loaded_reader(data, given, split, form)] for split, data in loaded.items()},
        frozenset({kind}),
    )


def _listed(features: Any) -> dict[str, Sequence[str]]:
    """The names of class labels by column."""
    return {
        name: feature.names
        for name, feature in (features or {}).items()
        if getattr(feature, "names", None)
    }


def _loaded_reader(data: Any, given: str, split: str, form: Format) -> Read:
    def read(wanted: Sequence[str]) -> Columns:
        table = data.data.table
        named, listed = f"{given} ({split})", _listed(data.features)
        return arrow_columns(table, named, wanted, listed, nested=form.nested)

    return read


def _downloaded(
    data_files: Mapping[str, Sequence[str]], given: str, path: str
) -> dict[str, list[tuple[Path, str]]]:
    """For each split, the files on this disk and their names for people."""
    import datasets

    found: dict[str, list[tuple[Path, str]]] = {}
    for split, files in data_files.items():
        if all(Path(file).exists() for file in files):
            names = [os.path.join(given, os.path.relpath(file, path)) for file in files]
            found[str(split)] = [
                (Path(file), name) for file, name in zip(files, names, strict=True)
            ]
            continue
        with _quiet():
            there = datasets.DownloadManager().download(list(files))
        found[str(split)] = [
            (Path(file), PurePosixPath(url.partition("@")[2] or url).name)
            for file, url in zip(there, files, strict=True)
        ]
    return found


# Folders of images


def _is_archive(name: str) -> bool:
    return Path(name).suffix.lower() in (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z")


def _is_picture(name: str, builder: Any) -> bool:
    """Whether a file is an image or the table beside images; others lie there by chance."""
    path = Path(name)
    return path.name in _METADATA or path.suffix.lower() in builder.EXTENSIONS


def _beside(read: Iterable[tuple[Path, str]]) -> list[str]:
    """What lies in the same folders as these files, hidden files left aside; in order."""
    names: dict[Path, set[str]] = {}
    folders: dict[Path, Path] = {}
    for file, name in read:
        names.setdefault(file.parent, set()).add(file.name)
        folders[file.parent] = Path(name).parent
    return sorted(
        str(folders[folder] / other.name)
        for folder, known in names.items()
        for other in folder.iterdir()
        if other.name not in known and not other.name.startswith(".") and other.is_file()
    )


def _image_folder(
    files: Mapping[str, Sequence[tuple[Path, str]]], form: Format
) -> dict[str, Sequence[Read]]:
    """A folder of images has a column `image`, and either those of its table of metadata, or a
    column `label`: the name of the folder that an image lies in."""
    pictures = [
        name for each in files.values() for _, name in each if Path(name).name not in _METADATA
    ]
    is_sorted = (
        len({Path(name).parent.name for name in pictures}) > 1
        and len({len(Path(name).parts) for name in pictures}) == 1
    )
    found: dict[str, Sequence[Read]] = {}
    for split, each in files.items():
        tables = [(file, name) for file, name in each if Path(name).name in _METADATA]
        if tables:
            found[split] = [_metadata_reader(file, name, form) for file, name in tables]
        elif each:
            found[split] = [_folder_reader(each, is_sorted)]
    return found


def _folder_reader(files: Sequence[tuple[Path, str]], is_sorted: bool) -> Read:
    labels = [file.parent.name for file, _ in files]
    columns = Columns(
        file=str(Path(files[0][1]).parent),
        names=("image", "label") if is_sorted else ("image",),
        num_rows=len(files),
        texts={"label": labels} if is_sorted else {},
        images={"image": [file for file, _ in files]},
        row_names=[name for _, name in files],
    )
    return lambda _: columns


def _metadata_reader(file: Path, name: str, form: Format) -> Read:
    def read(wanted: Sequence[str]) -> Columns:
        pointing = {"file_name": "image", **{f"{each}_file_name": each for each in wanted}}
        table = read_table(file, [*wanted, *pointing], form, None, name)
        images = {
            pointing[column]: [None if cell is None else file.parent / cell for cell in cells]
            for column, cells in table.texts.items()
            if column in pointing
        }
        texts = {column: cells for column, cells in table.texts.items() if column not in pointing}
        names = tuple(pointing.get(each, each) for each in table.names)
        return Columns(name, names, table.num_rows, texts, images)

    return read


# What `datasets` says


@contextmanager
def _as_input_errors(given: str) -> Iterator[None]:
    import datasets

    try:
        yield
    except InputError:
        raise
    except ConnectionError as error:
        raise InputError(
            f"stream.path: {given!r} is no file or folder{_nearest(Path(given))}, and the hub, "
            "which may have a data set of that name, cannot be reached"
        ) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        if "revision" in str(error).lower():
            raise InputError(f"stream.revision: {' '.join(str(error).split())}") from error
        raise InputError(
            f"stream.path: {given!r} is no file or folder{_nearest(Path(given))}, and no data "
            "set of the hub that can be had without a login"
        ) from error
    # A damaged card or file makes `datasets` raise what its parsers raise.
    except Exception as error:
        reason = " ".join(str(error.__cause__ or error).split())
        if "corresponds to no data" in reason:
            raise InputError(f"stream.path: {given!r} has no rows") from error
        key = "config" if reason.startswith(("BuilderConfig", "Config name")) else "path"
        raise InputError(f"stream.{key}: {given!r} cannot be read: {reason}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of `datasets`, which break up the lines of a log."""
    import datasets

    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()
