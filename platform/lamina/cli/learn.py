"""`lamina learn`: one more task for a bundle."""

from collections.abc import Sequence
from pathlib import Path

from lamina.bundles import find_bundle, open_bundle, write_bundle
from lamina.bundles.learning import Continuation, continuation
from lamina.cli.console import stdout
from lamina.cli.progress import display, learned
from lamina.cli.report import show_notes
from lamina.cli.run import resident_backbone
from lamina.digests import trial_id
from lamina.registry import InputError
from lamina.streams.names import counted


def learn_on(path: Path, changes: Sequence[str], *, trial: str | None, output: Path | None) -> None:
    """Train the next task and write the new bundle; the old one stays as it is.

    Raises InputError where the bundle or the data cannot be read, or the new bundle is there.
    """
    console = stdout()
    bundle = open_bundle(find_bundle(path, trial))
    ahead = continuation(bundle, changes)
    number = len(bundle.facts.tasks) + ahead.new.facts.num_tasks
    folder = output or bundle.folder.with_name(f"{bundle.folder.name}-{number}-tasks")
    if folder.exists():
        raise InputError(f"--output: {str(folder)!r} is there already (allowed: a new folder)")
    _say_what_comes(ahead)
    bundle.check_backbone()
    learner = ahead.learner(resident_backbone(ahead.job))
    with display(console, ahead.new.facts.num_tasks) as shown:
        for done, report in enumerate(learner.learn(), start=1):
            shown.line(learned(report))
            shown.count(done)
    write_bundle(
        ahead.job,
        learner,
        folder,
        name=bundle.facts.name,
        trial=trial_id(ahead.job.mapping),
        data=tuple(each.facts for each in ahead.stages),
        origin=(*bundle.facts.origin, bundle.digest),
    )
    console.print(f"{folder}: the new bundle", soft_wrap=True)


def _say_what_comes(ahead: Continuation) -> None:
    """What is learned, and what is not there any more."""
    console, stream = stdout(), ahead.new.stream
    assert stream is not None
    show_notes(console, [stream])
    known = ahead.known_classes
    new = len(stream.class_names) - len(known)
    said = [f"{counted(new, 'new class', 'new classes')}", f"{len(known)} known"]
    rows = sum(len(each.train) for each in stream.experiences)
    console.print(
        f"{ahead.bundle.facts.name} learns {counted(rows, 'row')} of {' and '.join(said)}",
        markup=False,
        soft_wrap=True,
    )
    if ahead.missing:
        are = "task has" if ahead.missing == 1 else "tasks have"
        console.print(
            f"{ahead.missing} earlier {are} no rows here any more: what is still known of them is "
            "not measured, and R has no numbers of them"
        )
