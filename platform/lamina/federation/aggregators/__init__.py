"""How updates become the next global state: one aggregator per file."""

from lamina.federation.aggregators.base import Aggregator
from lamina.registry import member_class, member_names

_PACKAGE = "lamina.federation.aggregators"


def aggregator_names() -> list[str]:
    """The aggregators a job may name."""
    return member_names(_PACKAGE)


def aggregator_class(name: str) -> type[Aggregator]:
    """The class of an aggregator. Raises InputError with the nearest match."""
    return member_class(_PACKAGE, name, Aggregator, "aggregator.name")
