"""Questions to a bundle: the rows of a file, read as its stream's rows were."""

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.bundles.bundle import Bundle
from lamina.config.fields import ConfigError
from lamina.config.job import parse_job
from lamina.config.overrides import laid_over, nested
from lamina.config.reading import read_overrides
from lamina.config.sections import read_member, stays
from lamina.registry import InputError
from lamina.streams.base import Asked
from lamina.streams.sources.huggingface import HuggingFace
from lamina.streams.sources.instructions import Instructions

_COLUMN = {"text": "text_column", "image": "image_column"}


def asked_rows(bundle: Bundle, path: str, words: Sequence[str] = ()) -> Asked:
    """The rows of a file or folder. Columns, delimiter and encoding are those of the bundle's
    stream, where it was read from files too, unless `stream.KEY=VALUE` words say otherwise.

    Raises InputError where a word is of another section, or the rows cannot be read.
    """
    problems: list[str] = []
    over = nested(read_overrides(words), problems)
    problems += [
        f"{key}: says nothing of how rows are read (allowed: stream)"
        for key in over
        if key != "stream"
    ]
    if problems:
        raise ConfigError(*problems)
    given = {"path": path, **over.get("stream", {})}
    if bundle.facts.answers == "tokens":
        return _asked_prompts(bundle, given)
    mapping = dict(bundle.job.mapping)
    if not isinstance(bundle.job.stream, HuggingFace):
        column = _COLUMN[bundle.facts.modality]
        mapping["stream"] = {"name": "huggingface", "path": path, column: column.split("_")[0]}
    # Where the shares of a split come from is of no account here.
    mapping = {**mapping, "scenario": {"kind": bundle.facts.scenario}, "learned_from": None}
    source = parse_job(laid_over(mapping, {"stream": given}, stays)).stream
    assert isinstance(source, HuggingFace)
    if source.modality != bundle.facts.modality:
        raise InputError(
            f"stream.{_COLUMN[source.modality]}: the bundle reads {bundle.facts.modality}s"
        )
    return source.load_asked()


def _asked_prompts(bundle: Bundle, given: Mapping[str, Any]) -> Asked:
    """Rows with prompts, in any format of instructions; a bundle of another stream takes those that
    are found by their columns."""
    own: dict[str, Any] = {}
    if isinstance(bundle.job.stream, Instructions):
        said = bundle.job.mapping["stream"]
        # Cutting texts is for training, and a column that is named says tasks instead of files.
        left = ["words_per_row", *(["tasks"] if "task_column" in given else [])]
        own = {key: each for key, each in said.items() if key not in left}
    problems: list[str] = []
    settings = {**own, **given, "name": "instructions"}
    source = read_member("stream", {"stream": settings}, problems)
    if problems:
        raise ConfigError(*problems)
    assert isinstance(source, Instructions)
    return source.load_asked()
