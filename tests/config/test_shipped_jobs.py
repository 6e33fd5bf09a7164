"""The files in jobs/: each can be read, and goes with the streams that are made for it."""

from pathlib import Path

import pytest

from lamina.config import expand, load_job
from lamina.strategies import strategy_names

JOBS = Path(__file__).parents[2] / "jobs"
FAMILIES = sorted((JOBS / "families").glob("*.yaml"))
STREAMS = sorted((JOBS / "streams").glob("*.yaml"))
ALONE = [*sorted(JOBS.glob("[!r]*.yaml")), *FAMILIES, *sorted((JOBS / "published").glob("*.yaml"))]


def short(path):
    return path.stem


@pytest.mark.parametrize("path", ALONE, ids=short)
def test_a_job_can_be_read_and_its_command_stands_on_top(path):
    plan = expand(load_job(path))
    assert plan.num_trials >= 1
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f"jobs/{path.relative_to(JOBS)}" in line for line in head)


@pytest.mark.parametrize("stream", STREAMS, ids=short)
@pytest.mark.parametrize("family", FAMILIES, ids=short)
def test_every_family_goes_with_every_stream(family, stream):
    plan = expand(load_job(family, [str(stream)]))
    job = plan.job
    assert job.name == f"{family.stem}-{stream.stem}"
    left_out = [note for note in plan.notes if note.endswith("left out")]
    assert len(plan.points) + len(left_out) == len(job.sweep.variants)


def test_every_strategy_is_in_a_job():
    tried = {
        point.trial.job.strategy_name for path in ALONE for point in expand(load_job(path)).points
    }
    assert tried == set(strategy_names())
