"""How the server moves by what the clients found: one optimiser per file."""

from lamina.federation.optimisers.base import ServerOptimiser
from lamina.registry import member_class, member_names

_PACKAGE = "lamina.federation.optimisers"


def server_optimiser_names() -> list[str]:
    """The server optimisers a job may name."""
    return member_names(_PACKAGE)


def server_optimiser_class(name: str) -> type[ServerOptimiser]:
    """The class of a server optimiser. Raises InputError with the nearest match."""
    return member_class(_PACKAGE, name, ServerOptimiser, "server_optimiser.name")
