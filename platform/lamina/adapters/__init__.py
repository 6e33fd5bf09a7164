"""What may be trained: one adapter kind per file, the adapted model, exchange with PEFT."""

from lamina.adapters.base import AdapterKind
from lamina.registry import member_class, member_names

_PACKAGE = "lamina.adapters.kinds"


def kind_names() -> list[str]:
    """The adapter kinds a job may name."""
    return member_names(_PACKAGE)


def kind_class(name: str) -> type[AdapterKind]:
    """The settings class of a kind. Raises InputError with the nearest match."""
    return member_class(_PACKAGE, name, AdapterKind, "adapter.kind")
