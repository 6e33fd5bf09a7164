"""`lamina sweep JOB --plan`: what a sweep is going to do and to cost, without doing it; and what it
cost, beside that."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lamina.config import Job, SweepPlan
from lamina.config.estimate import Estimate, Group, estimate
from lamina.core import Samples, Stream
from lamina.files import write_json

FILE = "plan.json"
"""Where the forecast waits for the sweep, in its output folder."""

PHASES = ("start", "features", "training", "evaluation", "overhead", "total")


def show_plan(console: Console, plan: SweepPlan, streams: Sequence[Stream[Samples]]) -> None:
    """Measure a few batches, and print cohorts, levers and time.

    Raises InputError for a scheduler or searcher that the sweep would refuse.
    """
    _check_search(plan, max(len(stream.experiences) for stream in streams))
    found = estimate(plan, streams)
    _show_cohorts(console, found.groups, plan.job)
    _show_levers(console, found)
    plan.job.output_dir.mkdir(parents=True, exist_ok=True)
    expected = {name: found.range(name) for name in PHASES}
    path = plan.job.output_dir / FILE
    write_json(path, expected)


def _check_search(plan: SweepPlan, num_tasks: int) -> None:
    settings = plan.job.sweep
    if settings is None or (settings.scheduler is None and settings.searcher is None):
        return
    # Ray Tune takes seconds to be imported.
    from lamina.orchestration.sweep.schedulers import make_scheduler
    from lamina.orchestration.sweep.searchers import check_searcher

    make_scheduler(plan, num_tasks)
    check_searcher(plan)


def show_outcome(console: Console, output_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """What was expected and what it was, where somebody had asked for a plan."""
    path = output_dir / FILE
    if not path.exists():
        return
    expected = json.loads(path.read_text(encoding="utf-8"))
    console.print("\nSeconds of one device, as planned and as it was")
    for name, also in (("training", "features"), ("evaluation", None)):
        key = f"cost/{name.removesuffix('ing')}_seconds"
        took = sum(row["reports"][-1]["metrics"][key] for row in rows if row["reports"])
        low, high = expected[name]
        if also is not None:
            low, high = low + expected[also][0], high + expected[also][1]
        console.print(f"{name}: planned {_seconds((low, high))}, took {took:,.0f}")


def _show_cohorts(console: Console, rows: Sequence[Group], job: Job) -> None:
    table = Table(title="Cohorts", title_justify="left", header_style="bold", box=None)
    for name in ("strategy", "adapter", "trials", "layers that are trained", "packed"):
        table.add_column(name)
    groups: Counter[tuple[str, str, float, str]] = Counter()
    for each in rows:
        kind = each.job.adapter.name if each.job.adapter else "-"
        how = _how(each, job)
        groups[each.job.strategy_name, kind, each.work.share, how] += each.trials
    for (strategy, kind, share, how), number in groups.items():
        table.add_row(strategy, kind, str(number), f"{share:.0%}", how)
    console.print(table)


def _how(group: Group, whole: Job) -> str:
    job, packing = group.job, group.packing
    if not job.strategy.takes_gradient_steps(job.adapter is not None):
        return "no: takes no step"
    if job.adapter is not None and not job.adapter.packs:
        return f"no: {job.adapter.name!r} brings modules of its own"
    if packing is None:
        return "no: features are kept, so its steps run no layer"
    size = whole.hosts.cohort or packing.size
    if size == 1:
        return f"no: a batch of {job.training.batch_size} rows fills the device"
    return f"up to {size}"


def _show_levers(console: Console, found: Estimate) -> None:
    table = Table(title="\nSeconds of one device", title_justify="left", header_style="bold")
    table.box = None
    table.add_column("")
    table.add_column("seconds", justify="right")
    table.add_row("a process for each trial", _seconds(found.range("by_hand")))
    for name, saved in found.saved().items():
        table.add_row(f"saved by {name}", _seconds(saved))
    for name in PHASES:
        table.add_row(f"expected: {name}", _seconds(found.range(name)))
    console.print(table)
    if found.hosts > 1:
        low, high = found.range("total")
        console.print(
            f"On {found.hosts} hosts that is {_seconds((low / found.hosts, high / found.hosts))} "
            "seconds. The higher figures are of a machine on which every host is busy."
        )


def _seconds(bounds: tuple[float, float]) -> str:
    low, high = (f"{each:,.0f}" for each in bounds)
    return low if low == high else f"{low} to {high}"
