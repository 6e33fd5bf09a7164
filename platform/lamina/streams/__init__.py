"""Where tasks come from: a source gives labelled rows, a scenario makes a stream of them, and a
manifest deals it out to clients."""

from lamina import registry
from lamina.core import Samples, Stream
from lamina.streams.base import Source, Table
from lamina.streams.scenario import ScenarioSettings, make_stream

__all__ = [
    "ScenarioSettings",
    "Source",
    "Table",
    "build_stream",
    "load_table",
    "make_stream",
    "source_class",
    "source_names",
]

_SOURCES = "lamina.streams.sources"


def source_names() -> list[str]:
    """What `stream.name` may be."""
    return registry.member_names(_SOURCES)


def source_class(name: str) -> type[Source]:
    """The source called `name`; its fields are the other keys of the job's `stream`.

    Raises InputError for an unknown name.
    """
    found: type[Source] = registry.member_class(_SOURCES, name, Source, "stream.name")
    return found


def build_stream(source: Source, scenario: ScenarioSettings, seed: int) -> Stream[Samples]:
    """The stream that `scenario` makes of `source`: a pure function of all three and of the data.

    Raises InputError where the source cannot be read or does not fit the scenario.
    """
    table = load_table(source, scenario, seed)
    return make_stream(table, scenario, seed, name=source.name, origin=source.settings)


def load_table(source: Source, scenario: ScenarioSettings, seed: int) -> Table:
    """The rows of `source` that `scenario` makes a stream of, in the order of their ids.

    Raises InputError where the source cannot be read.
    """
    by = scenario.time_column
    return source.load(seed) if by is None else source.load_by(seed, by)
