"""The command line: `lamina run | sweep | federate | strategies | report`.

Each command imports what it needs when it is called, so that `lamina --help` is there at once and
only `lamina sweep` and `lamina federate` know Ray. What is wrong with the input is said on stderr,
a line each, and the exit code is 2.
"""

from pathlib import Path
from typing import Any

import click

from lamina.registry import InputError


class _Commands(click.Group):
    """Says in plain lines what is wrong with the input."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            for problem in getattr(error, "problems", [str(error)]):
                click.echo(" ".join(problem.split()), err=True)
            ctx.exit(2)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lamina")
def main() -> None:
    """Continual learning with adapters on one frozen backbone."""


_job = click.argument("job", type=click.Path(path_type=Path))
_overrides = click.argument("overrides", nargs=-1, metavar="[FILE | KEY=VALUE]...")


@main.command()
@_job
@_overrides
def run(job: Path, overrides: tuple[str, ...]) -> None:
    """Train the one trial that JOB says, in this process.

    FILE is a job file laid over it, as jobs/streams/digits.yaml; KEY=VALUE sets a dotted key of the
    job: strategy.name=er seed=3
    """
    from lamina.cli.run import run_job

    run_job(job, overrides)


@main.command()
@_job
@_overrides
def sweep(job: Path, overrides: tuple[str, ...]) -> None:
    """Train every trial of JOB's sweep, on Ray, and rank them.

    FILE is a job file laid over it, as jobs/streams/digits.yaml; KEY=VALUE sets a dotted key of the
    job: training.epochs=1
    """
    from lamina.cli.sweep import sweep_job

    sweep_job(job, overrides)


@main.command()
@_job
@_overrides
@click.option("--in-process", is_flag=True, help="Without Ray: one backbone, in this process.")
def federate(job: Path, overrides: tuple[str, ...], in_process: bool) -> None:
    """Run the federation of JOB: clients with rows of their own, in rounds.

    A run that was interrupted goes on where it was. FILE is a job file laid over it; KEY=VALUE sets
    a dotted key of the job: federation.participation=0.2
    """
    from lamina.cli.federate import federate_job

    federate_job(job, overrides, in_process)


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def strategies(name: str | None, as_json: bool) -> None:
    """List the strategies and what goes with them; with NAME, show one's card."""
    from lamina.cli.strategies import show_strategies

    show_strategies(name, as_json)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Show again what a job left behind in RUN, its output_dir."""
    from lamina.cli.report import show_report

    show_report(run)
