"""`lamina serve`: bundles that answer over HTTP."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamina.bundles import Bundle
from lamina.bundles.facts import Facts
from lamina.cli.console import stdout
from lamina.orchestration.serving.run import serve_bundles
from lamina.orchestration.serving.selection import select_bundles
from lamina.orchestration.serving.settings import ServingSettings, check_access, read_token


def serve_runs(
    words: Sequence[str], *, trials: Sequence[str], token_file: Path | None, **options: Any
) -> None:
    """Serve the bundles that `[NAME=]RUN` words mean until Ctrl-C or SIGTERM. `options` are
    ServingSettings; what is None has its default.

    Raises InputError where a bundle, the token or the address is not fit for it.
    """
    given = {name: value for name, value in options.items() if value is not None}
    settings = ServingSettings(**given)
    token = read_token(token_file)
    check_access(settings, token)
    bundles = select_bundles(words, trials)
    console = stdout()
    console.print(f"checked {_number(bundles)}; starting Ray Serve ...")
    serve_bundles(bundles, settings, token, lambda address: _say(bundles, address, token))
    console.print("stopped")


def _say(bundles: Mapping[str, Bundle], address: str, token: str | None) -> None:
    console = stdout()
    for name, bundle in bundles.items():
        facts = bundle.facts
        console.print(
            f"  {name}: {_answers(facts)} in {len(facts.tasks)} tasks, {facts.modality}s, on "
            f"{facts.backbone.source}",
            markup=False,
            soft_wrap=True,
        )
    needs = "" if token is None else ", with a token"
    console.print(f"{_number(bundles)} at {address}{needs}; Ctrl-C stops it", soft_wrap=True)


def _answers(facts: Facts) -> str:
    return "texts" if facts.answers == "tokens" else f"{len(facts.class_names)} classes"


def _number(bundles: Mapping[str, Bundle]) -> str:
    return f"{len(bundles)} bundle{'' if len(bundles) == 1 else 's'}"
