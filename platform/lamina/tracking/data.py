"""What a run learned from, as a JSON document: names, counts and a digest, and no row."""

from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from lamina.core import Stream


class TaskDocument(TypedDict):
    """A task of a stream."""

    name: str
    classes: list[str]
    """What its classes are called."""
    rows: dict[str, int]
    """How many rows each part has."""


class DataDocument(TypedDict):
    """A stream."""

    name: str
    """What a person calls it."""
    digest: str
    """Of its rows, tasks and classes."""
    source: str
    """A path, a hub id, or the name of a source that brings its own rows."""
    modality: str
    scenario: str
    tasks: list[TaskDocument]
    """In the order in which they are learned."""


def data_document(stream: "Stream[Any]", digest: str, source: str) -> DataDocument:
    """The document of a stream that is read from `source`."""
    return {
        "name": stream.name,
        "digest": digest,
        "source": source,
        "modality": stream.modality,
        "scenario": stream.scenario,
        "tasks": [
            {
                "name": each.task.name,
                "classes": [stream.class_names[number] for number in each.task.classes],
                "rows": {
                    "train": len(each.train),
                    "validation": len(each.validation),
                    "test": len(each.test),
                },
            }
            for each in stream.experiences
        ],
    }
