"""The command line, in the order of use: `lamina init | check | run | sweep | report | predict |
generate | learn | export | serve | federate | submit`; of a sweep that is running, `trials | stop |
pause | resume | fork`; and what there is, `strategies | doctor`.

Each command imports what it needs when it is called, so that `lamina --help` is there at once and
only what concerns a sweep, a federation or serving knows Ray. Keys, names and types of a job are
checked before torch is imported, which takes seconds. What is wrong with the input is said on
stderr, a line each. Exit codes: 0, done; 1, it ran, and it or some of its trials failed; 2, the job
or its input is refused, and nothing was trained; 130 and 143, it was stopped by Ctrl-C or SIGTERM.
"""

from pathlib import Path
from typing import Any

import click

from lamina.cli.stopping import ending_in_a_line
from lamina.config import check_words
from lamina.files import disk_fault
from lamina.garbage import collect_seldom
from lamina.registry import InputError

_IN_ORDER = (
    *("init", "check", "run", "sweep", "report"),
    *("predict", "generate", "learn", "export", "serve"),
    *("federate", "submit"),
    *("trials", "stop", "pause", "resume", "fork"),
    *("strategies", "doctor"),
)
"""Commands in the order in which one comes to use them."""
_OWN_DATA = """\b
Data of your own, a csv file say:
  lamina init tickets.csv        # looks at it and writes tickets.yaml
  lamina sweep tickets.yaml      # compares a few methods on it"""


_GOES_ON = "the same command goes on from here, or `lamina resume OUTPUT_DIR`"
"""What is said to whoever has stopped a command that keeps what it has done."""


class _Commands(click.Group):
    """Lists its commands in the order of use, and says in plain lines what is wrong with the
    input."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        place = {name: index for index, name in enumerate(_IN_ORDER)}
        return sorted(self.commands, key=lambda name: (place.get(name, len(place)), name))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            for problem in getattr(error, "problems", [str(error)]):
                line = " ".join(problem.split())
                click.echo("".join(map(_readable, line)), err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            fault = disk_fault(error)
            if fault is None:
                raise
            click.echo(fault, err=True)
            ctx.exit(1)


def _readable(character: str) -> str:
    """What a terminal cannot show, or would obey, as an escape."""
    return character if character.isprintable() else ascii(character)[1:-1]


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_OWN_DATA,
)
@click.version_option(package_name="lamina")
def main() -> None:
    """Continual learning with adapters on one frozen backbone.

    Exit codes: 0, done; 1, it ran, and it or some of its trials failed; 2, the job or its input is
    refused; 130 and 143, it was stopped by Ctrl-C or SIGTERM.
    """
    collect_seldom()


_job = click.argument("job", type=click.Path(path_type=Path))
_overrides = click.argument("overrides", nargs=-1, metavar="[FILE | KEY=VALUE]...")


@main.command()
@click.argument("data")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The job file to write.")
@click.option("--text", multiple=True, metavar="COLUMN", help="The texts; several make one text.")
@click.option("--label", metavar="COLUMN", help="The labels.")
@click.option("--tasks", metavar="COLUMN", help="Of tasks or dates; or `classes`: a few in each.")
@click.pass_context
def init(ctx: click.Context, data: str, **options: Any) -> None:
    """Look at DATA and write a job that runs.

    DATA is a csv, tsv, JSON, JSON lines or Parquet file, maybe compressed, or a folder of such
    files or of images. What each column is taken for, and what is left out, is said and stands in
    the job with the reason; an option says otherwise.
    """
    from lamina.cli.init import write_job

    ctx.exit(0 if write_job(data, **options) else 2)


@main.command()
@click.argument("jobs", nargs=-1, required=True, metavar="JOB... [KEY=VALUE]...")
@click.pass_context
def check(ctx: click.Context, jobs: tuple[str, ...]) -> None:
    """Say all that is wrong with job files, and train nothing.

    KEY=VALUE sets a dotted key of every job. The exit code is 2 if any of them is not sound.
    """
    from lamina.cli.check import check_jobs

    overrides = [each for each in jobs if "=" in each]
    paths = [Path(each) for each in jobs if "=" not in each]
    ctx.exit(0 if check_jobs(paths, overrides) else 2)


@main.command()
@_job
@_overrides
def run(job: Path, overrides: tuple[str, ...]) -> None:
    """Train the one trial that JOB says, in this process.

    FILE is a job file laid over it, as jobs/streams/digits.yaml; KEY=VALUE sets a dotted key of the
    job: strategy.name=er seed=3
    """
    check_words(job, overrides)
    from lamina.cli.run import run_job

    with ending_in_a_line(_GOES_ON):
        run_job(job, overrides)


@main.command()
@_job
@_overrides
@click.option("--plan", is_flag=True, help="Show what it would do and cost; train nothing.")
def sweep(job: Path, overrides: tuple[str, ...], plan: bool) -> None:
    """Train every trial of JOB's sweep, on Ray, and rank them.

    FILE is a job file laid over it, as jobs/streams/digits.yaml; KEY=VALUE sets a dotted key of the
    job: training.epochs=1
    """
    check_words(job, overrides)
    from lamina.cli.sweep import plan_job, sweep_job

    if plan:
        plan_job(job, overrides)
    else:
        with ending_in_a_line(_GOES_ON):
            sweep_job(job, overrides).raise_for_failures()


@main.command()
@_job
@_overrides
@click.option("--in-process", is_flag=True, help="Without Ray: one backbone, in this process.")
def federate(job: Path, overrides: tuple[str, ...], in_process: bool) -> None:
    """Run the federation of JOB: clients with rows of their own, in rounds. The global model is a
    bundle: `lamina predict`, `export` and `serve` take the job's output_dir.

    A run that was interrupted goes on where it was. FILE is a job file laid over it; KEY=VALUE sets
    a dotted key of the job: federation.participation=0.2
    """
    check_words(job, overrides)
    from lamina.cli.federate import federate_job

    with ending_in_a_line(_GOES_ON):
        federate_job(job, overrides, in_process)


@main.command()
@_job
@_overrides
@click.option(
    "--address",
    envvar="RAY_API_SERVER_ADDRESS",
    required=True,
    help="Of the cluster's dashboard, as http://127.0.0.1:8265.",
)
@click.option(
    "--command",
    type=click.Choice(["sweep", "federate", "run"]),
    help="By default federate for a federation without a sweep, else sweep.",
)
@click.option("--follow", is_flag=True, help="Show what it prints, until it has ended.")
@click.pass_context
def submit(ctx: click.Context, job: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Send JOB to a Ray cluster, with this Lamina, and train it there.

    output_dir must be an absolute path of the head's machine. The cluster's token is taken from
    RAY_AUTH_TOKEN or from the file that RAY_AUTH_TOKEN_PATH names.
    """
    check_words(job, overrides)
    from lamina.cli.submit import submit_job

    ctx.exit(submit_job(job, overrides, **options))


@main.command()
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As a JSON list.")
def strategies(name: str | None, as_json: bool) -> None:
    """List the strategies and what goes with them; with NAME, show one's card."""
    from lamina.cli.strategies import show_strategies

    show_strategies(name, as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As a JSON object.")
def doctor(as_json: bool) -> None:
    """Say what this machine has: devices, packages, caches, the hub.

    It times float32 against bfloat16 for half a second.
    """
    from lamina.cli.doctor import show_doctor

    show_doctor(as_json)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--format",
    "-f",
    "wanted",
    type=click.Choice(["html", "table", "csv", "latex", "markdown", "json"]),
    help="Only this; by default the table, and the page in RUN/report.html.",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write there; the file's ending says the format. By default stdout, or RUN/report.html.",
)
def report(run: Path, wanted: Any, output: Path | None) -> None:
    """Show what a job left behind in RUN, its output_dir.

    Prints the leaderboard and writes RUN/report.html: one page for a browser, with tables that
    sort and filter, curves, accuracy matrices, costs, and why trials failed. Where the seed
    varies, settings are shown over their seeds.
    """
    from lamina.cli.report import report as report_on

    report_on(run, wanted, output)


_bundle = click.argument("bundle", type=click.Path(path_type=Path))
_trial_of_run = click.option(
    "--trial", metavar="NAME", help="Where BUNDLE is a job's output_dir: which trial; or 'best'."
)


@main.command()
@_bundle
@click.argument("file")
@click.argument("words", nargs=-1, metavar="[stream.KEY=VALUE]...")
@_trial_of_run
@click.option("--task", help="The task that all rows are of, where the stream told it.")
@click.option("--top-k", type=click.IntRange(1), default=1, help="So many labels for each row.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A file to write.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="By default csv.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of an answer in words.")
@click.option("--explain", is_flag=True, help="Show how right it is, where FILE has labels.")
def predict(bundle: Path, file: str, words: tuple[str, ...], **options: Any) -> None:
    """Say which class each row of FILE is of, or what a language model answers to it.

    BUNDLE is the output_dir of a job, a trial's folder in it, or an exported bundle. FILE is a csv,
    JSON or Parquet file or a folder of images, read as the bundle's own data was unless
    stream.KEY=VALUE says otherwise (stream.text_column=body); - reads lines of standard input.
    """
    from lamina.cli.predict import predict_file

    predict_file(bundle, file, words, **options)


@main.command()
@_bundle
@click.argument("prompts", nargs=-1, metavar="[PROMPT]...")
@_trial_of_run
@click.option("--task", help="The task that all prompts are of, where the stream told it.")
@click.option("--file", type=click.Path(path_type=Path), help="Of prompts, one on each line.")
@click.option(
    "--max-new-tokens", type=click.IntRange(1), help="Of an answer. By default as its job says."
)
@click.option("--format", "form", type=click.Choice(["text", "jsonl"]), default="text")
def generate(bundle: Path, prompts: tuple[str, ...], **options: Any) -> None:
    """Say what a language model answers to each PROMPT.

    BUNDLE is the output_dir of a job, a trial's folder in it, or an exported bundle. A prompt
    becomes what the prompts of the bundle's stream were, and is cut as they were; each next token
    is the likeliest. PROMPT - reads lines of standard input.
    """
    from lamina.cli.generate import generate_answers

    generate_answers(bundle, prompts, **options)


@main.command()
@_bundle
@click.argument("changes", nargs=-1, metavar="stream.path=FILE [KEY=VALUE]...", required=True)
@_trial_of_run
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where the new bundle goes.")
def learn(bundle: Path, changes: tuple[str, ...], **options: Any) -> None:
    """Teach a bundle one more task, and write a new bundle beside it.

    stream.path=FILE says what it learns: new classes, or a new domain. The file is read as the
    bundle's own data was unless other stream keys say otherwise. KEY=VALUE changes a key of its
    job: training.epochs=3
    """
    from lamina.cli.learn import learn_on

    learn_on(bundle, changes, **options)


@main.command()
@_bundle
@click.argument("out", type=click.Path(path_type=Path))
@_trial_of_run
@click.option("--push", "repository", metavar="OWNER/NAME", help="Send it to the hub as well.")
def export(bundle: Path, out: Path, **options: Any) -> None:
    """Write a bundle into the folder OUT, with a model card.

    Where it is a plain adapter with a linear head, OUT/classifier is a model that plain
    transformers loads; OUT/adapters has the adapters in PEFT's format.
    """
    from lamina.cli.export import export_to

    export_to(bundle, out, **options)


@main.command()
@click.argument("bundles", nargs=-1, metavar="[NAME=]RUN...", required=True)
@click.option("--trial", "trials", metavar="NAME", multiple=True, help="Of each RUN; or 'all'.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Others need a token.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--token-file", type=click.Path(path_type=Path), help="What requests must know.")
@click.option("--replicas", type=click.IntRange(1), help="Processes that answer. By default 1.")
@click.option("--threads", type=click.IntRange(1), help="CPU cores of each.")
@click.option("--max-rows", type=click.IntRange(1), help="Inputs of a request.")
@click.option("--max-characters", type=click.IntRange(1), help="Of a text.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of an answer in tokens.")
@click.option("--max-pixels", type=click.IntRange(1), help="Of an image.")
@click.option("--max-body-bytes", type=click.IntRange(1), help="Of a request.")
def serve(bundles: tuple[str, ...], **options: Any) -> None:
    """Answer over HTTP with the bundles of RUNs, all on one backbone, on Ray Serve.

    RUN is the output_dir of a job (its best trial, unless --trial names others), a trial's folder,
    or an exported bundle. Requests call a bundle by NAME, or else by its trial's name:

    \b
    curl http://127.0.0.1:8000/v1/predict -H 'Content-Type: application/json' \\
        -d '{"inputs": ["my parcel is late"], "bundle": "er", "top_k": 3}'

    Bundles that answer with texts take what OpenAI's clients send to /v1/completions and
    /v1/chat/completions, with NAME as the model.

    Only this machine can ask, unless --host says otherwise; then requests need a token, as
    Authorization: Bearer TOKEN. It is read from a file, or from LAMINA_TOKEN.
    """
    from lamina.cli.serve import serve_runs

    serve_runs(bundles, **options)


_run = click.argument("run", type=click.Path(path_type=Path))
_trial = click.argument("trial")
_address = click.option(
    "--address", help="Of the dashboard of a cluster elsewhere, whose head has RUN on its disk."
)


def _elsewhere(address: str | None, *words: str) -> None:
    """Where there is an address, run this command on the cluster there instead, and end with its
    exit code."""
    if address is not None:
        from lamina.cli.submit import run_there

        click.get_current_context().exit(run_there(address, *words))


@main.command()
@_run
@_address
def trials(run: Path, address: str | None) -> None:
    """Show the trials of a sweep and how far they are; RUN is its output_dir.

    The sweep may be running, on this machine or on its cluster, or have ended.
    """
    _elsewhere(address, "trials", str(run))
    from lamina.cli.control import show_trials

    show_trials(run)


@main.command()
@_run
@_trial
@_address
def stop(run: Path, trial: str, address: str | None) -> None:
    """Stop a trial of a running sweep at its next task boundary.

    TRIAL is an id or a name that `lamina trials` shows, or the beginning of one.
    """
    _elsewhere(address, "stop", str(run), trial)
    from lamina.cli.control import control_trial

    control_trial("stop", run, trial)


@main.command()
@_run
@_trial
@_address
def pause(run: Path, trial: str, address: str | None) -> None:
    """Pause a trial of a running sweep at its next task boundary, and let others take its place.

    The sweep waits for it to be resumed or stopped.
    """
    _elsewhere(address, "pause", str(run), trial)
    from lamina.cli.control import control_trial

    control_trial("pause", run, trial)


@main.command()
@_run
@click.argument("trial", required=False)
@_address
def resume(run: Path, trial: str | None, address: str | None) -> None:
    """Go on with what was begun in RUN; with TRIAL, with one that was paused, stopped or failed.

    RUN is the output_dir of a sweep or a federation that was stopped or killed: it goes on as the
    command that began it would. With TRIAL the sweep is one that is running.
    """
    _elsewhere(address, "resume", str(run), *([] if trial is None else [trial]))
    if trial is None:
        from lamina.cli.resuming import resume_run

        with ending_in_a_line(_GOES_ON):
            resume_run(run)
        return
    from lamina.cli.control import control_trial

    control_trial("resume", run, trial)


@main.command()
@_run
@_trial
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]...")
@_address
def fork(run: Path, trial: str, changes: tuple[str, ...], address: str | None) -> None:
    """Start a trial where another one of a running sweep stands: after its last task.

    KEY=VALUE changes a key of its job: training.learning_rate=1e-4. All else stays as it is,
    memories and what the optimiser remembers included. Where the run has ended, the trial learns
    one more task, as with `lamina learn`: stream.path=december.csv
    """
    _elsewhere(address, "fork", str(run), trial, *changes)
    from lamina.cli.control import fork_of_trial

    fork_of_trial(run, trial, changes)
