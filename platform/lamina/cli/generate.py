"""`lamina generate`: what a language model's bundle says behind prompts."""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import click
from rich.console import Console

from lamina.bundles import Generation, find_bundle, load_predictor, open_bundle
from lamina.registry import InputError
from lamina.streams.names import counted
from lamina.training.generate import TOGETHER

STDIN = "-"


def generate_answers(
    path: Path,
    prompts: Sequence[str],
    *,
    trial: str | None,
    task: str | None,
    file: Path | None,
    max_new_tokens: int | None,
    form: Literal["text", "jsonl"],
) -> None:
    """Print the answer to each prompt: as a text, behind the task that the strategy routed it to if
    it routes; or as a line of JSON.

    Raises InputError where there is no prompt, or the bundle cannot be read or answers with
    classes.
    """
    bundle = open_bundle(find_bundle(path, trial))
    asked = _prompts(prompts, file)
    predictor = load_predictor(bundle)
    predictor.task_named(task)
    max_new_tokens = max_new_tokens or predictor.max_new_tokens
    at_a_time = 1 if sys.stdin.isatty() and prompts == (STDIN,) else TOGETHER
    total, broken = 0, 0
    while texts := list(islice(asked, at_a_time)):
        for prompt, said in zip(
            texts, predictor.generate(texts, task, max_new_tokens), strict=True
        ):
            click.echo(_line(prompt, said, form, is_lone=len(prompts) == 1 and file is None))
            total, broken = total + 1, broken + (not said.is_whole)
        sys.stdout.flush()
    if not total:
        raise InputError("PROMPT: none was given (allowed: texts, - or --file FILE)")
    if broken:
        Console(stderr=True, highlight=False).print(
            f"{broken:,} of {counted(total, 'answer')} broke off after {max_new_tokens} tokens "
            "(--max-new-tokens)",
            soft_wrap=True,
        )


def _prompts(prompts: Sequence[str], file: Path | None) -> Iterator[str]:
    """Those of the command line, or the lines of standard input or of a file that are not blank."""
    if file is not None:
        if prompts:
            raise InputError("--file: prompts were given as well (allowed: one of both)")
        try:
            content = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
            raise InputError(f"--file: {str(file)!r} cannot be read ({reason})") from error
        return (line for line in content.splitlines() if line.strip())
    if tuple(prompts) == (STDIN,):
        lines = (line.rstrip("\r\n") for line in sys.stdin)
        return (line for line in lines if line.strip())
    return iter(prompts)


def _line(prompt: str, said: Generation, form: str, *, is_lone: bool) -> str:
    if form == "jsonl":
        record = {"prompt": prompt, "text": said.text, "is_whole": said.is_whole}
        if said.task is not None:
            record["task"] = said.task
        return json.dumps(record, ensure_ascii=False)
    answer = said.text if said.task is None else f"[{said.task}] {said.text}"
    return answer if is_lone else f"{prompt}\n  {answer}"
