"""What may be trained: one adapter kind per file, the adapted model, exchange with PEFT.

The names are known without torch, which takes seconds to import.
"""

from typing import TYPE_CHECKING

from lamina.registry import member_class, member_names

if TYPE_CHECKING:
    from lamina.adapters.base import AdapterKind

_PACKAGE = "lamina.adapters.kinds"


def kind_names() -> list[str]:
    """The adapter kinds a job may name."""
    return member_names(_PACKAGE)


def kind_class(name: str) -> type["AdapterKind"]:
    """The settings class of a kind. Raises InputError with the nearest match."""
    from lamina.adapters.base import AdapterKind

    return member_class(_PACKAGE, name, AdapterKind, "adapter.kind")
