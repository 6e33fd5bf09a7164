"""Small tables and streams for tests of what deals rows out."""

from lamina.core import PARTS
from lamina.streams import ScenarioSettings, Table, make_stream


def table_of(num_classes: int = 6, rows_per_class: int = 40, owners: int = 5) -> Table:
    """Different texts; class c is in group c // 2; rows belong to owners in turn."""
    rows = [(c, r) for c in range(num_classes) for r in range(rows_per_class)]
    return Table(
        modality="text",
        values=[f"class {c} row {r}" for c, r in rows],
        labels=[f"class {c}" for c, _ in rows],
        classes=[f"class {c}" for c in range(num_classes)],
        groups=[f"group {c // 2}" for c, _ in rows],
        owners={"user": [f"user {r % owners}" for _, r in rows]},
    )


def stream_of(table: Table, **settings):
    return make_stream(table, ScenarioSettings(kind="class_incremental", **settings), seed=0)


def ids_of(stream) -> list[int]:
    """The ids of all rows, ascending."""
    return sorted(
        row for each in stream.experiences for part in PARTS for row in each.part(part).ids.tolist()
    )
