"""`lamina trials | stop | pause | resume | fork`: a sweep from another terminal.

Only `fork` loads torch, for the job that it changes, so the others answer at once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from lamina.cli.console import stdout
from lamina.evaluation.halving import projected_accuracy
from lamina.evaluation.measures import better_of, measure_in, named
from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.control import Action
from lamina.orchestration.sweep.terminal import read_ledger, store_of
from lamina.registry import InputError, unknown

_DONE = {"stop": "stops", "pause": "pauses", "resume": "goes on"}


def show_trials(run: Path) -> None:
    """Every trial of a sweep and how far it is; of one that does not run, as its ledger has it.
    Raises InputError when there is none."""
    with store_of(run) as store:
        rows = store.results() if store is not None else read_ledger(run)
        is_live = store is not None
    if rows is None:
        raise _no_results_in(run)
    console = stdout()
    console.print(f"{run} {'runs' if is_live else 'does not run'}: {len(rows)} trials so far")
    console.print(_table(rows, is_live))


def control_trial(action: Action, run: Path, word: str) -> None:
    """Stop, pause or resume a trial at its next task boundary."""
    with _running(run) as store:
        trial = _trial(store.results(), word)
        if refusal := store.act(action, trial["trial"]):
            raise InputError(f"TRIAL: {refusal}")
    when = "" if action == "resume" else " at its next task boundary"
    stdout().print(f"{trial['name']} ({trial['trial']}) {_DONE[action]}{when}", soft_wrap=True)


def fork_of_trial(run: Path, word: str, words: Sequence[str]) -> None:
    """Start a trial from another's last task boundary, with a few keys of its job changed.

    Of a run that has ended, the bundle of the trial learns on (`lamina learn`): it has no task
    left, so `stream.` keys must say what comes next.
    """
    if _has_ended(run, word):
        from lamina.cli.learn import learn_on

        learn_on(run, words, trial=word, output=None)
        return
    from lamina.config import fork_trial

    with _running(run) as store:
        parent = _trial(store.results(), word)
        made = fork_trial(parent["mapping"], words)
        name = "-".join(each for each in (parent["name"], made.name) if each)
        settings = {**(parent["settings"] or {}), **made.settings}
        trial, refusal = store.fork(parent["trial"], name, made.job.mapping, settings)
    if refusal:
        raise InputError(f"TRIAL: {refusal}")
    stdout().print(f"{name} ({trial}) is queued", soft_wrap=True)


def _has_ended(run: Path, word: str) -> bool:
    """Whether a run is over, and left the bundle of a trial."""
    with store_of(run) as store:
        if store is not None:
            return False
    from lamina.bundles import find_bundle

    try:
        find_bundle(run, word)
    except InputError:
        return False
    return True


@contextmanager
def _running(run: Path) -> Iterator[StoreClient]:
    with store_of(run) as store:
        if store is None:
            if not (run / "store").is_dir():
                raise _no_results_in(run)
            raise InputError(
                f"RUN: {str(run)!r} does not run (allowed: the output_dir of a sweep "
                "that does; start it again with `lamina sweep`)"
            )
        yield store


def _no_results_in(run: Path) -> InputError:
    from lamina.reporting.results import no_results_in

    return no_results_in(run)


def _trial(rows: Sequence[dict[str, Any]], word: str) -> dict[str, Any]:
    """The one trial that a person means: by its id, its name, or the beginning of either."""
    for found in (
        [row for row in rows if word in (row["trial"], row["name"])],
        [row for row in rows if row["trial"].startswith(word) or row["name"].startswith(word)],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(f"{row['trial']} ({row['name']})" for row in found)
            raise InputError(f"TRIAL: {word!r} is several (allowed: one of {names})")
    raise unknown("TRIAL", word, [each for row in rows for each in (row["trial"], row["name"])])


def _table(rows: Sequence[dict[str, Any]], is_live: bool) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("trial", "name", "state", "tasks", "validation", "projected"):
        is_number = heading in ("tasks", "validation", "projected")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=True)
    for row in rows:
        reports = row["reports"]
        metrics = reports[-1]["metrics"] if reports else {}
        measure = measure_in(metrics)
        accuracy = metrics.get(named("validation/average_accuracy", measure))
        num_tasks = reports[-1]["num_tasks"] if reports else None
        validation = [each["validation"] for each in reports]
        projected = (
            projected_accuracy(validation, num_tasks, better_of(measure)) if num_tasks else None
        )
        table.add_row(
            row["trial"],
            row["name"],
            _state(row, is_live),
            f"{len(reports)}/{num_tasks}" if num_tasks else "0",
            "-" if accuracy is None else f"{accuracy:.3f}",
            "-" if projected is None else f"{projected:.3f}",
        )
    return table


def _state(row: dict[str, Any], is_live: bool) -> str:
    state, hold = row["status"], row["hold"]
    if not is_live and state in ("queued", "running", "paused"):
        state = "interrupted"
    elif state == "running":
        state = f"running on {row['host']}"
    elif state == "paused" and hold is None:
        state = "waits for others"
    if row["fork"]:
        state += f", fork of {row['fork']['trial']} after {row['fork']['task'] + 1}"
    return state
