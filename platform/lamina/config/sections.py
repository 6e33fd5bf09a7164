"""The sections of a job whose remaining keys depend on what one of them names."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from lamina.config.fields import read_fields, read_settings
from lamina.config.outline import Outline, member_outline
from lamina.config.overrides import NAMED_BY
from lamina.config.peft_tuners import misspelt
from lamina.config.reading import shown
from lamina.registry import member_class, member_names, unknown


class Family(NamedTuple):
    """Classes of which a job's section names one. Its names and their keys are known
    without an import."""

    section: str
    package: str
    """Its modules are the members."""
    base: str
    """The class that all inherit from, in the module `base` beside the package or in it."""
    home: str
    """That module."""

    @property
    def key(self) -> str:
        """The job's key that names a member."""
        return f"{self.section}.{NAMED_BY[self.section]}"

    def names(self) -> list[str]:
        """The members."""
        return member_names(self.package)

    def outline(self, name: str) -> Outline:
        """What a member declares. Raises InputError with the nearest match."""
        if name not in self.names():
            raise unknown(self.key, name, self.names())
        return member_outline(self.package, name, self.base)

    def class_of(self, name: str) -> type:
        """A member, imported. Raises InputError with the nearest match."""
        base = getattr(import_module(self.home), self.base)
        return member_class(self.package, name, base, self.key)


def _families() -> Iterator[Family]:
    yield Family("stream", "lamina.streams.sources", "Source", "lamina.streams.base")
    yield Family("adapter", "lamina.adapters.kinds", "AdapterKind", "lamina.adapters.base")
    yield Family("strategy", "lamina.strategies", "Strategy", "lamina.strategies.base")
    yield Family("memory", "lamina.memory.policies", "Policy", "lamina.memory.base")
    for section, package, base in (
        ("partition", "lamina.streams.partitioners", "Partitioner"),
        ("arrival", "lamina.streams.arrivals", "Arrival"),
        ("aggregator", "lamina.federation.aggregators", "Aggregator"),
        ("server_optimiser", "lamina.federation.optimisers", "ServerOptimiser"),
    ):
        yield Family(f"federation.{section}", package, base, f"{package}.base")


FAMILIES = {each.section: each for each in _families()}


def read_member(
    section: str,
    given: Mapping[str, Any],
    problems: list[str],
    optional: bool = False,
    make: bool = True,
) -> Any:
    """The object that a section says, or None after adding a line to `problems` for each thing that
    is wrong; None too for an optional section that is null or not there. `given` is the mapping
    that the section is in.

    Where it is not to be made, only the keys and types are read, and nothing is imported.
    """
    family, by = FAMILIES[section], NAMED_BY[section]
    settings = given.get(section.rpartition(".")[2])
    allowed = f"allowed: {', '.join(family.names())}"
    if settings is None and optional:
        return None
    if settings is None:
        problems.append(f"{family.key}: missing ({allowed})")
        return None
    if not isinstance(settings, Mapping):
        null = " or null" if optional else ""
        problems.append(
            f"{section}: {shown(settings)} is not allowed "
            f"(allowed: a mapping with the key {by!r}{null})"
        )
        return None
    name = settings.get(by)
    if not isinstance(name, str):
        said = "missing" if by not in settings else f"{shown(name)} is not allowed"
        problems.append(f"{family.key}: {said} ({allowed})")
        return None
    if name not in family.names():
        problems.append(str(unknown(family.key, name, family.names())))
        return None
    rest = {key: value for key, value in settings.items() if key != by}
    if lines := list(misspelt_names(section, name, rest)):
        problems += lines
        return None
    if not make:
        return read_settings(family.outline(name).settings(), rest, section, problems, also=[by])
    return read_fields(family.class_of(name), rest, section, problems, also=[by])


def misspelt_names(section: str, name: str, settings: Mapping[str, Any]) -> Iterator[str]:
    """A line for each name of another package's that a member is given and that is none."""
    if (section, name) == ("adapter", "peft"):
        yield from misspelt(settings)


def value_at(mapping: Mapping[str, Any], key: str) -> Any:
    """What a nested mapping has at a dotted key; None where it has nothing."""
    value: Any = mapping
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def keys_of(section: str, mapping: Mapping[str, Any]) -> list[str]:
    """The keys beside the one that names the class that a job's section has; none where it names
    none."""
    family, name = FAMILIES[section], value_at(mapping, f"{section}.{NAMED_BY[section]}")
    return list(family.outline(name).settings()) if name in family.names() else []


def split_key(key: str) -> tuple[str, str]:
    """The section whose class has a dotted key, and the key's name there."""
    sections = [each for each in NAMED_BY if key.startswith(f"{each}.")]
    section = max(sections, key=len, default=key.partition(".")[0])
    return section, key.removeprefix(f"{section}.").partition(".")[0]


def has_setting(section: str, name: str, key: str) -> bool:
    """Whether the class that `section` calls `name` has the setting `key`; no class has one if
    there is no such name."""
    family = FAMILIES[section]
    return name in family.names() and key in family.outline(name).settings()


def stays(section: str, name: str, key: str) -> bool:
    """Whether a setting outlives the naming of another class for its section.

    A rank or a width means the same to every adapter kind that has it. A hyper-parameter belongs to
    its paper: `strength` is not one thing in EWC and LwF, so none is handed on between strategies.
    """
    return section != "strategy" and has_setting(section, name, key)
