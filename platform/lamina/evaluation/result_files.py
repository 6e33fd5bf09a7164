"""The files of results: the leaderboard of a sweep, and the row of a lone run. Each says its
format, and another version's is refused by that."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamina.evaluation.leaderboard import Row, read_row, written
from lamina.files import checked_format, read_json, write_json
from lamina.folders import LEADERBOARD, RESULT
from lamina.registry import InputError

LEADERBOARD_FORMAT = 2
"""One more whenever the keys of the file or their meaning change. The first had none: it was the
list of rows, which is still read."""
RESULT_FORMAT = 1


def write_leaderboard(rows: Sequence[Row], output_dir: Path) -> Path:
    """Make `rows` the leaderboard of an output folder."""
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / LEADERBOARD
    write_json(path, {"format": LEADERBOARD_FORMAT, "trials": [written(row) for row in rows]})
    return path


def read_leaderboard(output_dir: Path, key: str) -> list[Row]:
    """The rows of the leaderboard of an output folder; none where it has no leaderboard.

    Raises InputError, which names `key` and the file, where it is damaged or of another version.
    """
    path = output_dir / LEADERBOARD
    if not path.is_file():
        return []
    found = read_json(path, key)
    if not isinstance(found, list):
        found = checked_format(found, LEADERBOARD_FORMAT, path, key).get("trials")
    if not isinstance(found, list):
        raise InputError(f"{key}: {str(path)!r} has no list of trials")
    return [_row(each, path, key) for each in found]


def write_result(row: Row, folder: Path) -> None:
    """Make `row` the result of a lone run."""
    write_json(folder / RESULT, {"format": RESULT_FORMAT, **written(row)})


def read_result(folder: Path, key: str) -> Row:
    """The row of a lone run. Raises as `read_leaderboard`."""
    path = folder / RESULT
    found = dict(checked_format(read_json(path, key), RESULT_FORMAT, path, key))
    found.pop("format", None)
    return _row(found, path, key)


def _row(found: Any, path: Path, key: str) -> Row:
    if not isinstance(found, dict) or not isinstance(found.get("trial"), str):
        raise InputError(f"{key}: {str(path)!r} has a row that names no trial")
    return read_row(found)
