"""`lamina federate`: clients that keep their rows, round by round, and what they reach together."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from lamina.bundles.federated import why_no_bundle, write_global_bundle
from lamina.cli.console import stdout
from lamina.cli.progress import Display, display
from lamina.cli.report import notes_in_record, show_mlflow, show_notes, show_slow
from lamina.cli.resuming import record_job
from lamina.cli.run import resident_backbone
from lamina.config import Job, check_components, load_job
from lamina.config.identity import identified, learned_from
from lamina.config.unused import unused_by
from lamina.config.words import JobSource
from lamina.core import Samples, Stream
from lamina.digests import trial_id
from lamina.evaluation.measures import DEFAULTS, words_of
from lamina.files import write_json
from lamina.folders import BUNDLE, RESULT
from lamina.registry import InputError

if TYPE_CHECKING:
    from lamina.federation.server.outcome import Bound
    from lamina.federation.server.rounds import FederatedRun

ADAPTER = "global.safetensors"
FORMAT = 1
"""Of federated_result.json: one more whenever its keys or their meaning change."""
_UNITS = {
    "client": "of whether a client took part",
    "example": "of whether a row was at a client: the largest over clients",
}
"""What an epsilon is of, by the unit of privacy."""
_MOST_CLIENTS = 20
"""So many are shown one by one."""


def federate_job(source: JobSource, overrides: Sequence[str], in_process: bool) -> None:
    """Run a job's federation, from where an earlier run stopped, and show what came out.

    In the output folder: federated_result.json, the final global tensors, the bundle of the global
    model where all clients have one, the stream manifest, events.jsonl.
    """
    console = stdout()
    job = load_job(source, overrides)
    if job.federation is None:
        raise InputError(
            f"federation: missing in {job.name!r} (allowed: a mapping; see jobs/federated_*.yaml)"
        )
    (raw,) = check_components([job])
    # Only a job that is sound is worth the seconds that Ray takes to be imported and started.
    from lamina.federation.server.outcome import result_of
    from lamina.orchestration.federated.event_recorder import FederatedEventRecorder
    from lamina.orchestration.federated.learner import save_global
    from lamina.orchestration.federated.run import MANIFEST, run_federated

    name = str(source) if isinstance(source, Path | str) else job.name
    recorder = FederatedEventRecorder(job, name)
    for key, why in unused_by(job, "federate --in-process" if in_process else "federate").items():
        console.print(f"{key} changes nothing: {why}", markup=False, soft_wrap=True)
    show_notes(console, [raw])
    show_slow(console, [job])
    missing = None
    try:
        with display(console, 0) as shown:
            progress = _Progress(shown, raw)

            def tell(event: Mapping[str, Any]) -> None:
                if event["event"] == "federation_started":
                    record_job(job, "federate", overrides, in_process)
                recorder(event)
                progress(event)

            found = run_federated(job, raw, tell, in_process=in_process)
    except BaseException as error:
        recorder.finish("stopped" if isinstance(error, KeyboardInterrupt) else "failed", {}, 0, {})
        raise
    notes = notes_in_record([raw])
    result = {**result_of(found.run, found.sha, found.central, found.local), "notes": notes}
    folder = job.output_dir
    write_json(folder / RESULT_OF_FEDERATION, {"format": FORMAT, **result})
    save_global(found.run.server.global_state, folder / ADAPTER)
    without = _write_bundle(job, raw, found.run)
    kept = {folder / ADAPTER: "adapters", folder / MANIFEST: "", folder / RESULT_OF_FEDERATION: ""}
    missing = recorder.finish("finished", result["metrics"], found.run.server.version, kept)
    if missing:
        click.echo(f"tracking: {missing}", err=True)
    _show(console, result)
    for line in _failed_bounds(found.central, found.local):
        console.print(line, markup=False, soft_wrap=True)
    files = ", ".join([RESULT_OF_FEDERATION, ADAPTER, MANIFEST])
    bundle = "the bundle" if without is None else f"no bundle, as {without}"
    console.print(f"\n{folder}: {files}; {bundle}", markup=False, soft_wrap=True)
    tracking = job.tracking
    show_mlflow(console, folder, tracking.mlflow_uri, tracking.experiment or job.name)


RESULT_OF_FEDERATION = f"federated_{RESULT}"


def _write_bundle(job: Job, raw: Stream[Samples], run: "FederatedRun") -> str | None:
    """Returns why there is none, and None where there is one."""
    if why := why_no_bundle(job):
        return why
    known = identified(job, learned_from(job, raw))
    backbone = resident_backbone(job)
    stream = backbone.encode_stream(raw)
    trial = trial_id(known.mapping)
    place = job.output_dir / BUNDLE
    return write_global_bundle(known, stream, backbone, run, place, name=job.name, trial=trial)


class _Progress:
    """A line for each round."""

    def __init__(self, shown: Display, stream: Stream[Samples]) -> None:
        self._shown = shown
        self._about = f"{stream.scenario} on {stream.name}"
        self._measure = DEFAULTS[stream.answers]
        self._rounds = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        match event:
            case {"event": "federation_started", "rounds": rounds, "clients": clients}:
                self._rounds = rounds
                again = f", from round {event['done'] + 1} on" if event["done"] else ""
                self._shown.line(f"{clients} clients, {rounds} rounds{again}: {self._about}")
            case {"event": "state_damaged", "damage": damage, "done": done}:
                self._shown.line(f"{damage}: goes on from the state before it, after round {done}")
            case {"event": "host_ready", "host": host}:
                self._shown.line(f"{host} is ready")
            case {"event": "host_lost", "host": host, "error": error}:
                self._shown.line(f"{host} is lost, others do what it had: {error}")
            case {"event": "hosts_missing", "needs": needs}:
                self._shown.line(f"waits for {needs}")
            case {"event": "work_done", "kind": "train", "round": number, "metrics": metrics}:
                self._shown.line(_round(number + 1, self._rounds, metrics))
            case {"event": "work_done", "kind": "evaluate", "task": step, "metrics": metrics}:
                measure = self._measure
                self._shown.line(
                    f"after step {step + 1} of the stream: test {words_of(measure)} "
                    f"{metrics[f'test/pooled_{measure}']:.3f}, of the clients "
                    f"{metrics.get(f'test/{measure}/mean', 0):.3f} "
                    f"(tenth percentile {metrics.get(f'test/{measure}/p10', 0):.3f})"
                )
            case {"event": "bounds_started"}:
                self._shown.line("training the bounds: each client alone, and one on all rows")


def _failed_bounds(central: "Bound | None", local: "Mapping[int, Bound]") -> Iterator[str]:
    """Which bounds have failed, and why: those of clients in one line."""
    if central is not None and central.error is not None:
        yield f"bound of one learner on all rows failed: {central.error}"
    errors = [each.error for each in local.values() if each.error is not None]
    if errors:
        yield f"bound of {len(errors)} of {len(local)} clients alone failed: {errors[0]}"


def _round(number: int, rounds: int, metrics: Mapping[str, float]) -> str:
    """One round in a line."""
    said = [f"round {number}/{rounds}: {metrics['clients']:.0f} updates"]
    if "loss/mean" in metrics:
        said.append(f"loss {metrics['loss/mean']:.3f}")
    for key in ("refused", "missing"):
        if metrics[key]:
            said.append(f"{metrics[key]:.0f} {key}")
    if metrics["staleness"]:
        said.append(f"staleness {metrics['staleness']:.1f}")
    if "epsilon" in metrics:
        said.append(f"epsilon {metrics['epsilon']:.3g}")
    said.append(f"{_bytes(metrics['bytes_up'])} up, {_bytes(metrics['bytes_down'])} down")
    return ", ".join(said) + f", at {metrics['virtual_seconds']:.1f} virtual s"


def _show(console: Console, result: Mapping[str, Any]) -> None:
    metrics, clients = result["metrics"], result["clients"]
    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("test part")
    measure = result["measure"]
    for heading in (words_of(measure), "forgetting"):
        table.add_column(heading, justify="right")
    rows = {
        "global, on the rows of all": "test",
        "mean over clients, on their own rows": "test/clients",
        "bound: each client alone": "bound/alone",
        "bound: one learner on all rows": "bound/central",
    }
    for words, prefix in rows.items():
        values = [metrics.get(f"{prefix}/{key}") for key in (f"average_{measure}", "forgetting")]
        if any(value is not None for value in values):
            table.add_row(words, *map(_number, values))
    console.print()
    console.print(table)
    spatial = metrics.get("test/clients/spatial_forgetting")
    if spatial is not None:
        console.print(
            f"spatial forgetting {spatial:.3f}: what a client's model is better on its own task "
            "before the others are averaged in"
        )
    console.print(
        f"{_bytes(metrics['bytes/up'])} up, {_bytes(metrics['bytes/down'])} down, "
        f"{metrics['virtual_seconds']:.1f} virtual s"
    )
    if result["privacy"] is not None:
        console.print(
            f"epsilon {metrics['privacy/epsilon']:.4g} at delta {result['privacy']['delta']:g}, "
            f"{_UNITS[result['privacy']['unit']]}"
        )
    refused = {
        key.removeprefix("refused/"): value
        for key, value in metrics.items()
        if key.startswith("refused/")
    }
    if refused:
        console.print("refused: " + ", ".join(f"{n:.0f} {why}" for why, n in refused.items()))
    console.print()
    console.print(_clients(clients[:_MOST_CLIENTS], measure))
    if len(clients) > _MOST_CLIENTS:
        console.print(f"and {len(clients) - _MOST_CLIENTS} more in {RESULT_OF_FEDERATION}")


def _clients(clients: Sequence[Mapping[str, Any]], measure: str) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("client")
    headings = ["rows", words_of(measure), "forgetting", "alone", "rounds", "up", "down"]
    is_spent = any("epsilon" in row for row in clients)
    for heading in headings + ["epsilon"] * is_spent:
        table.add_column(heading, justify="right")
    for row in clients:
        spent = [_number(row.get("epsilon"))] * is_spent
        table.add_row(
            row["client"],
            str(row["rows"]),
            _number(row[measure]),
            _number(row["forgetting"]),
            _number(row.get(f"alone_{measure}")),
            str(row["included"]),
            _bytes(row["bytes_up"]),
            _bytes(row["bytes_down"]),
            *spent,
        )
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _bytes(number: float) -> str:
    """`1.2 MB`."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
