"""What a trial learns from: the digests of its rows, of its clients' shares and of its backbone.

They are part of a trial's job (its key `learned_from`), so a trial whose data or model has changed
is another trial. Where the data and the model are is not: what was moved is known again.
"""

from collections.abc import Mapping
from dataclasses import replace

from lamina.backbones.content import backbone_digest
from lamina.config.clients import manifest_of
from lamina.config.job import Job
from lamina.core import D, Stream
from lamina.digests import LEARNED_FROM, digest_of
from lamina.registry import InputError

_WORDS = {"stream": "the data", "backbone": "the model", "clients": "which client has which rows"}


def stream_content(stream: Stream[D]) -> str:
    """The digest of a stream, raw or encoded: of every row with its id, task and part (which the
    stream's record has), and of what its tasks and classes are called."""
    tasks = [[each.task.name, list(each.task.classes)] for each in stream.experiences]
    names = [stream.scenario, stream.one_pass, stream.modality, list(stream.class_names), tasks]
    return digest_of([stream.record.get("digest"), names])


def learned_from(job: Job, stream: Stream[D]) -> dict[str, str]:
    """What a trial of `job` learns from, given its stream: `stream`, `backbone` and, in a
    federation, `clients`. Raises InputError where the model or the clients are not there."""
    found = {"stream": stream_content(stream), "backbone": backbone_digest(job.backbone.name)}
    if job.federation is not None:
        found["clients"] = manifest_of(job, stream).hash[:10]
    return found


def source_of(job: Job) -> str:
    """Where its rows are: a path, a hub id, or the name of the source that brings its own."""
    return str(getattr(job.stream, "path", None) or job.mapping["stream"]["name"])


def identified(job: Job, found: Mapping[str, str]) -> Job:
    """`job` with what it learns from. Raises InputError where it says otherwise itself."""
    check_learned_from(job, found)
    known = dict(found)
    return replace(job, learned_from=known, mapping={**job.mapping, LEARNED_FROM: known})


def check_learned_from(job: Job, found: Mapping[str, str]) -> None:
    """Raises InputError where a job says that it learns from something else than what is there."""
    for key, said in (job.learned_from or {}).items():
        if key not in _WORDS:
            raise InputError(f"learned_from.{key}: unknown key (allowed: {', '.join(_WORDS)})")
        if key in found and found[key] != said:
            raise InputError(
                f"learned_from.{key}: {said!r} is not {_WORDS[key]} that is there now (allowed: "
                f"{found[key]!r}): it has changed, or this machine has another"
            )


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """In words, what is not the same in two answers of `learned_from`."""
    return [words for key, words in _WORDS.items() if before.get(key) != now.get(key)]
