"""The sections of a job whose remaining keys depend on what one of them names."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lamina.adapters import kind_class, kind_names
from lamina.adapters.base import AdapterKind
from lamina.config.fields import read_fields, settings_of
from lamina.config.overrides import NAMED_BY
from lamina.config.reading import shown
from lamina.federation.aggregators import aggregator_class, aggregator_names
from lamina.federation.aggregators.base import Aggregator
from lamina.federation.optimisers import server_optimiser_class, server_optimiser_names
from lamina.federation.optimisers.base import ServerOptimiser
from lamina.memory import policy_class, policy_names
from lamina.memory.base import Policy
from lamina.registry import InputError
from lamina.strategies import strategy_class, strategy_names
from lamina.strategies.base import Strategy
from lamina.streams import Source, source_class, source_names
from lamina.streams.arrivals import Arrival, arrival_class, arrival_names
from lamina.streams.partitioners import Partitioner, partitioner_class, partitioner_names

Member = (
    Source | AdapterKind | Strategy | Policy | Partitioner | Arrival | Aggregator | ServerOptimiser
)


@dataclass(frozen=True)
class Family:
    """Classes of which a job's section names one."""

    names: Callable[[], list[str]]
    class_of: Callable[[str], type[Member]]


FAMILIES = {
    "stream": Family(source_names, source_class),
    "adapter": Family(kind_names, kind_class),
    "strategy": Family(strategy_names, strategy_class),
    "memory": Family(policy_names, policy_class),
    "federation.partition": Family(partitioner_names, partitioner_class),
    "federation.arrival": Family(arrival_names, arrival_class),
    "federation.aggregator": Family(aggregator_names, aggregator_class),
    "federation.server_optimiser": Family(server_optimiser_names, server_optimiser_class),
}


def read_member(
    section: str, given: Mapping[str, Any], problems: list[str], optional: bool = False
) -> Any:
    """The object that a section says, or None after adding a line to `problems` for each thing that
    is wrong; None too for an optional section that is null or not there. `given` is the mapping
    that the section is in."""
    family, by = FAMILIES[section], NAMED_BY[section]
    settings = given.get(section.rpartition(".")[2])
    if settings is None and optional:
        return None
    if settings is None:
        problems.append(f"{section}.{by}: missing (allowed: {', '.join(family.names())})")
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
        problems.append(f"{section}.{by}: {said} (allowed: {', '.join(family.names())})")
        return None
    try:
        cls = family.class_of(name)
    except InputError as error:
        problems.append(str(error))
        return None
    rest = {key: value for key, value in settings.items() if key != by}
    return read_fields(cls, rest, section, problems, also=[by])


def has_setting(section: str, name: str, key: str) -> bool:
    """Whether the class that `section` calls `name` has the setting `key`; no class has one if
    there is no such name."""
    try:
        return key in settings_of(FAMILIES[section].class_of(name))
    except InputError:
        return False


def stays(section: str, name: str, key: str) -> bool:
    """Whether a setting outlives the naming of another class for its section.

    A rank or a width means the same to every adapter kind that has it. A hyper-parameter belongs to
    its paper: `strength` is not one thing in EWC and LwF, so none is handed on between strategies.
    """
    return section != "strategy" and has_setting(section, name, key)
