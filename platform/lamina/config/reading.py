"""From text to plain mappings: YAML job files and `KEY=VALUE` overrides.

YAML 1.1 reads `1e-3` as text, `no` as false and `2026-01-02` as a date, which nobody who writes a
job means. Here the plain words and numbers are those of YAML 1.2's core schema, and a key given
twice is an error. The parser is PyYAML's safe one.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from lamina.registry import InputError

Plain = dict[str, Any]
"""What JSON has too: text, numbers, true, false, null, lists and mappings with text as keys."""


DEEPEST = 50
"""Lists and mappings in each other."""
LARGEST = 100_000
"""Values in a file."""
_TAGS = (None, "!", "tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


class _Loader(yaml.SafeLoader):
    """The safe loader with YAML 1.2's words and numbers, refusing a key that is given twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _add_word(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))


_add_word("null", r"^(~|null|Null|NULL|)$", "~nN")
_Loader.yaml_implicit_resolvers.setdefault("", []).append(
    ("tag:yaml.org,2002:null", re.compile(r"^$"))
)
_add_word("bool", r"^(true|True|TRUE|false|False|FALSE)$", "tTfF")
_add_word("int", r"^[-+]?[0-9]+(_[0-9]+)*$", "-+0123456789")
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_add_word(
    "float",
    r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$",
    "-+.0123456789",
)
_add_word("merge", r"^<<$", "<")


class _Refused(yaml.MarkedYAMLError):
    """YAML that no job needs."""

    def __init__(self, problem: str, parsed: Any) -> None:
        super().__init__(problem=problem, problem_mark=parsed.start_mark)


@dataclass
class _Open:
    """A list or mapping that has begun and not ended."""

    is_mapping: bool
    anchor: str | None
    size: int = 1
    """Values in it so far, what its aliases stand for included."""
    num_nodes: int = 0
    """Its own keys and values so far."""


def _check_shape(text: str) -> None:
    """Raises _Refused for what would not be a plain tree of reasonable size, before it is built:
    tags, keys that are no scalars, aliases of what they are in, and what is too deep or too large.
    """
    opened: list[_Open] = []
    sizes: dict[str, int] = {}
    for parsed in yaml.parse(text, Loader=_Loader):
        if isinstance(parsed, yaml.CollectionEndEvent):
            ended = opened.pop()
            if ended.anchor is not None:
                sizes[ended.anchor] = ended.size
            if opened:
                opened[-1].size += ended.size
        if not isinstance(parsed, yaml.NodeEvent):
            continue
        is_scalar, is_alias = (
            isinstance(parsed, yaml.ScalarEvent),
            isinstance(parsed, yaml.AliasEvent),
        )
        tag = getattr(parsed, "tag", None)
        if tag not in _TAGS:
            said = tag.replace("tag:yaml.org,2002:", "!!")
            raise _Refused(f"the tag {said} is not allowed (allowed: values without a tag)", parsed)
        above = opened[-1] if opened else None
        if above is not None:
            if above.is_mapping and above.num_nodes % 2 == 0 and not is_scalar:
                what = "a mapping" if isinstance(parsed, yaml.MappingStartEvent) else "a list"
                what = f"the alias *{parsed.anchor}" if is_alias else what
                raise _Refused(f"{what} is not a key (allowed: names)", parsed)
            above.num_nodes += 1
        if not is_scalar and not is_alias:
            opened.append(_Open(isinstance(parsed, yaml.MappingStartEvent), parsed.anchor))
            if len(opened) > DEEPEST:
                raise _Refused(f"nested too deep (allowed: {DEEPEST} levels)", parsed)
            continue
        size = 1
        if is_alias and any(each.anchor == parsed.anchor for each in opened):
            raise _Refused(f"the alias *{parsed.anchor} stands for what it is in itself", parsed)
        if is_alias:
            size = sizes.get(str(parsed.anchor), 1)
        elif parsed.anchor is not None:
            sizes[parsed.anchor] = 1
        if above is not None:
            above.size += size
        if sum(each.size for each in opened) > LARGEST:
            raise _Refused(f"too large (allowed: {LARGEST:,} values, aliases written out)", parsed)


def read_yaml(text: str, where: str) -> Any:
    """The value that `text` is in YAML; `where` names its origin in errors.

    Raises InputError with the line and column of what is wrong.
    """
    try:
        _check_shape(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = " ".join(line for line in (error.problem, error.context) if line)
        what = what if isinstance(error, _Refused) else f"not YAML ({what})"
        raise InputError(f"{where}{position}: {what}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{where}: not YAML ({' '.join(str(error).split())})") from None


def read_job_file(path: Path) -> Plain:
    """The mapping that a job file is.

    Raises InputError when it is not there, is not text, is not YAML, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = get_close_matches(str(path), _job_files(path), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"job: no file {str(path)!r}{hint} (allowed: a YAML file)") from None
    except IsADirectoryError:
        raise InputError(f"job: {str(path)!r} is a folder (allowed: a YAML file)") from None
    except UnicodeDecodeError:
        raise InputError(f"job: {str(path)!r} is not UTF-8 text (allowed: a YAML file)") from None
    except OSError as error:
        raise InputError(f"job: {str(path)!r} cannot be read ({error.strerror})") from None
    given = read_yaml(text, str(path))
    if not isinstance(given, dict) or not given:
        raise InputError(f"{path}: is {shown(given)} (allowed: a mapping with the keys of a job)")
    return given


def is_job_file(word: str) -> bool:
    """Whether a word on the command line names a file, and no key with its value."""
    return "=" not in word and word.endswith((".yaml", ".yml"))


def _job_files(path: Path) -> list[str]:
    folders = {path.parent, Path("jobs")}
    return [str(each) for folder in folders if folder.is_dir() for each in folder.glob("*.y*ml")]


def read_overrides(overrides: Sequence[str]) -> Plain:
    """`KEY=VALUE` words as one mapping from dotted keys to values; each value is YAML. Job files
    among them are left out.

    Raises InputError when a word is not `KEY=VALUE`; of a key given twice the last one counts, as
    on any command line.
    """
    values: Plain = {}
    for override in overrides:
        if is_job_file(override):
            continue
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise InputError(
                f"override: {override!r} is not KEY=VALUE (allowed: a dotted key and a YAML value, "
                f"as in strategy.name=er, or a YAML file)"
            )
        values[key.strip()] = read_yaml(value, f"override {override!r}")
    return values


def shown(value: object) -> str:
    """A value as the person who wrote the job knows it, on one line and not too long."""
    words: dict[Any, str] = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
