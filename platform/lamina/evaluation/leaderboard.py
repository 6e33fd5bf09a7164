"""Who did best: the results of trials in one order, which anybody gets from the same results.

A result is what a sweep says of a trial, as plain JSON: `trial`, `name`, `settings` (what tells it
from others), `mapping` (its whole job), `status`, `error` and `reports`, one for each task learned;
maybe `notes`, what was said of its rows, and `hold`: `stop` where a person has stopped it.

The columns of a row that its `measure` fills are called by accuracy here, whatever it is; in files
they have its own name (`written`, `read_row`).
"""

from collections.abc import Iterable, Mapping, Sequence
from math import inf, isfinite
from typing import Any, Literal

from lamina.digests import LEARNED_FROM
from lamina.evaluation.measures import better_of, measure_in, named

Result = Mapping[str, Any]
Row = dict[str, Any]

MEASURED = (
    "average_accuracy",
    "validation_average_accuracy",
    "pooled_accuracy",
    "average_incremental_accuracy",
    "learning_accuracy",
)
"""The columns that hold values of the measure."""
_STATUS_ORDER = {"finished": 0, "stopped": 1, "failed": 2}


def leaderboard(
    results: Iterable[Result],
    metric: str | None = None,
    mode: Literal["max", "min"] | None = None,
) -> list[Row]:
    """A row for each result, ranked from 1 by `metric`, or else by the average of its measure on
    the validation part; what is undefined is None. See `ranked`."""
    return ranked([_row(result, metric, mode) for result in results])


def ranked(rows: Iterable[Row]) -> list[Row]:
    """Rows by their score, ranked from 1.

    Trials that ended by themselves come first, because an average over fewer tasks is a different,
    easier number; then stopped ones, those that got further before the others; then failed ones.
    Where the metric is undefined a trial comes after its like; for ties see `precedence`. No number
    of the test part orders anything.
    """

    def order(row: Row) -> tuple[Any, ...]:
        mode = row.get("mode", "max")
        return (
            _STATUS_ORDER.get(row["status"], len(_STATUS_ORDER)),
            -row["tasks_done"],
            *precedence(row["score"], mode, row["trainable_parameters"], row["name"], row["trial"]),
        )

    in_order = enumerate(sorted(rows, key=order), start=1)
    return [{"rank": place, **_without_rank(row)} for place, row in in_order]


def written(row: Row) -> Row:
    """A row as files have it."""
    measure = row.get("measure", "accuracy")
    return {named(key, measure) if key in MEASURED else key: row[key] for key in row}


def read_row(row: Row) -> Row:
    """The row that `written` gave."""
    measure = row.get("measure", "accuracy")
    names = {named(key, measure): key for key in MEASURED}
    return {**{names.get(key, key): value for key, value in row.items()}, "measure": measure}


def _without_rank(row: Row) -> Row:
    return {key: value for key, value in row.items() if key != "rank"}


def precedence(
    score: float | None, mode: str, trainable: int | None, name: str, trial: str
) -> tuple[Any, ...]:
    """What sorts trials that got equally far: by their score, those without one last; ties go to
    fewer trainable parameters, then to the name, then to the id."""
    return (
        score is None,
        0.0 if score is None else (-score if mode == "max" else score),
        inf if trainable is None else trainable,
        name,
        trial,
    )


def trainable_parameters(reports: Sequence[Mapping[str, Any]]) -> int | None:
    """The largest number of trained parameters in a trial's reports: a method may train on its
    first task only."""
    return _most(reports, "cost/trainable_parameters")


def _row(result: Result, metric: str | None, mode: str | None) -> Row:
    mapping, reports = result["mapping"], result["reports"]
    tracking = mapping["tracking"]
    metrics = reports[-1]["metrics"] if reports else {}
    measure = measure_in(metrics)
    metric = metric or named("validation/average_accuracy", measure)
    mode = mode or better_of(measure)

    def of(key: str) -> float | None:
        value = metrics.get(key)
        return value if value is not None and isfinite(value) else None

    def of_measure(summary: str) -> float | None:
        return of(named(summary, measure))

    return {
        "strategy": mapping["strategy"]["name"],
        "adapter": (mapping.get("adapter") or {}).get("kind"),
        "settings": dict(result["settings"]),
        "scenario": mapping["scenario"]["kind"],
        "measure": measure,
        "average_accuracy": of_measure("test/average_accuracy"),
        "forgetting": of("test/forgetting"),
        "validation_average_accuracy": of_measure("validation/average_accuracy"),
        "trainable_parameters": trainable_parameters(reports),
        "stored_parameters": _whole(of("cost/stored_parameters")),
        "memory_bytes": _whole(of("cost/memory_bytes")),
        "seconds": _sum(of("cost/train_seconds"), of("cost/evaluation_seconds")),
        "pooled_accuracy": of_measure("test/pooled_accuracy"),
        "average_incremental_accuracy": of_measure("test/average_incremental_accuracy"),
        "backward_transfer": of("test/backward_transfer"),
        "forward_transfer": of("test/forward_transfer"),
        "learning_accuracy": of_measure("test/learning_accuracy"),
        "macro_f1": of("test/macro_f1"),
        "drift": of("drift/mean_kl"),
        "metric": metric,
        "mode": mode,
        "score": of(metric),
        "stream": mapping["stream"]["name"],
        "backbone": mapping["backbone"]["name"],
        "tasks_done": len(reports),
        "num_tasks": reports[-1]["num_tasks"] if reports else None,
        "status": result["status"],
        "stopped_by": _stopped_by(result),
        "error": result["error"],
        "trial": result["trial"],
        "name": result["name"],
        "data": (mapping.get(LEARNED_FROM) or {}).get("stream"),
        "mlflow_uri": tracking["mlflow_uri"] if tracking["enabled"] else None,
        "experiment": tracking.get("experiment") or mapping.get("name"),
        "notes": list(result.get("notes", ())),
    }


def _stopped_by(result: Result) -> str | None:
    """Who has stopped a trial: a `person`, or the `sweep`, by its scheduler or its end."""
    if result["status"] != "stopped":
        return None
    return "person" if result.get("hold") == "stop" else "sweep"


def _most(reports: Sequence[Mapping[str, Any]], key: str) -> int | None:
    """The largest value that any task reports."""
    values = [report["metrics"][key] for report in reports if key in report["metrics"]]
    return int(max(values)) if values else None


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second
