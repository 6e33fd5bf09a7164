"""When the rows of each client come: one arrival process per file."""

from lamina import registry
from lamina.streams.arrivals.base import Arrival

__all__ = ["Arrival", "arrival_class", "arrival_names"]


def arrival_names() -> list[str]:
    """What `federation.arrival.kind` may be."""
    return registry.member_names(__name__)


def arrival_class(name: str) -> type[Arrival]:
    """The arrival process of kind `name`. Raises InputError with the nearest match."""
    key = "federation.arrival.kind"
    found: type[Arrival] = registry.member_class(__name__, name, Arrival, key)
    return found
