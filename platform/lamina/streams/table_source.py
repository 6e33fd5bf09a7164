"""What sources of rows in files or on the Hugging Face hub have in common: where the rows are, how
they are written, and which split is for what."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lamina.core import Part
from lamina.registry import InputError, unknown
from lamina.streams.base import Source
from lamina.streams.records import Records


@dataclass(frozen=True)
class TableSource(Source):
    """Rows with columns of names."""

    group_key = "task_column"
    owner_key = "client_column"

    path: str
    """A file (csv, tsv, json, jsonl, parquet; also compressed: .gz, .bz2, .xz), a pattern such as
    `data/*.csv` for several files that are one split, a folder or a hub id."""
    config: str | None = None
    """Which configuration of the data set, where a hub id or a folder has several."""
    revision: str | None = None
    """Which branch, tag or commit of the hub; null: the main one."""
    delimiter: str | None = None
    """What separates the cells of a csv file; null: a comma, in .tsv files a tab."""
    encoding: str = "utf-8"
    """How csv and JSON files are encoded; a byte order mark is left out."""
    quote: str = '"'
    """What csv cells with a delimiter or a line break in them stand in; '' where quotes mean
    nothing."""
    field: str | None = None
    """Under which key of a JSON document the rows stand, with dots where it is nested."""
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
        for key, given, lengths in (
            ("delimiter", self.delimiter, (1,)),
            ("quote", self.quote, (0, 1)),
        ):
            if given is not None and (len(given) not in lengths or given in ("\n", "\r")):
                raise InputError(f"stream.{key}: {given!r} is not allowed (allowed: one character)")
        if self.delimiter is not None and self.delimiter == self.quote:
            raise InputError(
                f"stream.delimiter: {self.delimiter!r} is stream.quote as well (allowed: another)"
            )

    @property
    def own_parts(self) -> Mapping[Part, str]:
        """As `validation_split` and `test_split` say."""
        named: dict[Part, str | None] = {
            "validation": self.validation_split,
            "test": self.test_split,
        }
        return {part: split for part, split in named.items() if split is not None}

    def chosen(self, splits: Collection[str] | None = None) -> dict[Part, str]:
        """The split of each part that the job names one for. Raises InputError for one that is not
        among `splits`, where these are given, and for one that two parts share."""
        chosen: dict[Part, str] = {"train": self.train_split, **self.own_parts}
        for part, split in chosen.items():
            if splits is not None and split not in splits:
                raise unknown(f"stream.{part}_split", split, list(splits))
            others = [other for other in chosen if chosen[other] == split]
            if others[0] != part:
                raise InputError(
                    f"stream.{part}_split: {split!r} is stream.{others[0]}_split as well "
                    "(allowed: a split of its own, or null)"
                )
        return chosen

    def check_not_void(self, rows: Records, chosen: Mapping[Part, str]) -> None:
        """Raise InputError where a split that was chosen has no row."""
        for part, split in chosen.items():
            if part not in rows.parts:
                raise InputError(f"stream.{part}_split: {split!r} of {self.path!r} has no rows")
