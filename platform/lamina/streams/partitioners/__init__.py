"""Which client each row goes to: one partitioner per file."""

from lamina import registry
from lamina.streams.partitioners.base import Partition, Partitioner, partition

__all__ = ["Partition", "Partitioner", "partition", "partitioner_class", "partitioner_names"]


def partitioner_names() -> list[str]:
    """What `federation.partition.kind` may be."""
    return registry.member_names(__name__)


def partitioner_class(name: str) -> type[Partitioner]:
    """The partitioner of kind `name`. Raises InputError with the nearest match."""
    key = "federation.partition.kind"
    found: type[Partitioner] = registry.member_class(__name__, name, Partitioner, key)
    return found
