"""Continual-learning methods, one file each; the file's name is the method's name in a job."""

from lamina.registry import member_class, member_names
from lamina.strategies.base import Strategy

_PACKAGE = "lamina.strategies"


def strategy_names() -> list[str]:
    """The strategies a job may name."""
    return member_names(_PACKAGE)


def strategy_class(name: str) -> type[Strategy]:
    """The class of a strategy. Raises InputError with the nearest match."""
    return member_class(_PACKAGE, name, Strategy, "strategy.name")
