"""A bundle's folder: opened, checked and read."""

import json
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from lamina.backbones.content import backbone_digest
from lamina.bundles.facts import Facts, read_facts
from lamina.config.job import Job, parse_job
from lamina.evaluation.result_files import read_leaderboard
from lamina.folders import BUNDLE, RUNS, TRIALS
from lamina.registry import InputError, unknown
from lamina.training.checkpoint import unpack

FACTS = "bundle.json"
JOB = "job.json"
MODEL = "model.safetensors"
LEARNER = "learner.safetensors"
CLASSES = "classes.json"
ADAPTERS = "adapters"
TOKENIZER = "tokenizer"
BEST = "best"
"""The trial that ranks first."""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened; its tensors are read when they are asked for."""

    folder: Path
    facts: Facts
    job: Job
    digest: str
    """The SHA-256 of `bundle.json`, which names every other file's."""

    @cached_property
    def model(self) -> dict[str, Any]:
        """The state that answers: `model` for AdaptedModel.load_state_dict, and `strategy`, its
        state. Raises InputError where the file is not what was written."""
        return _mapping(self._tensors(MODEL), ("model", "strategy"), self.folder / MODEL)

    @cached_property
    def learner(self) -> dict[str, Any]:
        """The state that is needed to learn on. Raises InputError where the file is not what was
        written."""
        keys = ("next_task", "num_steps", "memory", "scores", "stepper", "exemplars")
        return _mapping(self._tensors(LEARNER), keys, self.folder / LEARNER)

    def check_classes(self, key: str) -> None:
        """Raises InputError, naming `key`, where its answers are texts."""
        if self.facts.answers == "tokens":
            raise InputError(f"{key}: {str(self.folder)!r} answers with texts (allowed: classes)")

    def check_backbone(self) -> None:
        """Raises InputError where the backbone that is there is not the one that was trained on."""
        known = self.facts.backbone
        if (found := backbone_digest(self.job.backbone.name)) != known.digest:
            raise InputError(
                f"backbone.name: {known.name!r} is another model here (digest {found}) than the "
                f"one of this bundle (allowed: {known.digest})"
            )

    def check_files(self) -> None:
        """Raises InputError where one of its files is missing, or not what was written."""
        for name in self.facts.files:
            read_file(self.folder, name, self.facts)

    def _tensors(self, name: str) -> Any:
        return unpack(read_file(self.folder, name, self.facts))


def open_bundle(folder: Path) -> Bundle:
    """The bundle in a folder.

    Raises InputError where there is none, it is of another format, or its job cannot be read.
    """
    path = folder / FACTS
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"BUNDLE: {str(folder)!r} is no bundle ({FACTS}: {error.strerror})"
        ) from error
    facts = read_facts(content, f"BUNDLE: {path}")
    try:
        mapping = json.loads(read_file(folder, JOB, facts))
    except (ValueError, RecursionError) as error:
        raise InputError(f"BUNDLE: {str(folder / JOB)!r} is not JSON ({error})") from error
    if not isinstance(mapping, dict):
        raise InputError(f"BUNDLE: {str(folder / JOB)!r} is no job (allowed: a mapping)")
    return Bundle(folder, facts, parse_job(mapping), sha256(content).hexdigest())


def read_file(folder: Path, name: str, facts: Facts) -> bytes:
    """A file of a bundle. Raises InputError where it is missing, or not what was written."""
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"BUNDLE: {str(path)!r} cannot be read ({error.strerror})") from error
    if sha256(content).hexdigest() != facts.files.get(name):
        raise InputError(f"BUNDLE: {str(path)!r} is damaged: {FACTS} has another SHA-256 of it")
    return content


def find_bundle(path: Path, trial: str | None = None) -> Path:
    """The folder of the bundle that a person means: a bundle, a trial's folder, or a job's
    output folder with the trial that ranks first, or with `trial`: an id, a name, the beginning of
    either, or `best`.

    Raises InputError where there is none, or several.
    """
    for folder in (path, path / BUNDLE):
        if (folder / FACTS).is_file():
            return folder
    found = _trials(path)
    if not found:
        said = "holds no bundle" if path.exists() else "is not there"
        raise InputError(
            f"BUNDLE: {str(path)!r} {said} (allowed: a folder with {FACTS}, or the output_dir of a "
            "job of which a trial has finished)"
        )
    if trial in (None, BEST):
        return found[0][0]
    for matches in (
        [folder for folder, *names in found if trial in names],
        [folder for folder, *names in found if any(each.startswith(str(trial)) for each in names)],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            names = ", ".join(each.parent.name for each in matches)
            raise InputError(f"--trial: {trial!r} is several (allowed: one of {names})")
    known = dict.fromkeys(name for _, *names in found for name in names)
    raise unknown("--trial", trial, [BEST, *known])


def find_bundles(path: Path) -> list[Path]:
    """The folders of all bundles of a job's output folder, or the one that `path` is or holds.

    Raises InputError where there is none.
    """
    first = find_bundle(path)
    return [folder for folder, *_ in _trials(path)] or [first]


def _trials(output_dir: Path) -> list[tuple[Path, str, str]]:
    """The bundles of a job's trials with their ids and names: those of its sweep as they rank, then
    those of lone runs as they ended."""
    rows = read_leaderboard(output_dir, "BUNDLE")
    folders = [output_dir / TRIALS / row["trial"] / BUNDLE for row in rows]
    lone = output_dir.glob(f"{RUNS}/*/{BUNDLE}")
    folders += sorted(lone, key=lambda each: each.stat().st_mtime_ns, reverse=True)
    found = []
    for folder in folders:
        path = folder / FACTS
        if path.is_file():
            facts = read_facts(path.read_bytes(), f"BUNDLE: {path}")
            found.append((folder, facts.trial, facts.name))
    return found


def _mapping(found: Any, keys: tuple[str, ...], path: Path) -> dict[str, Any]:
    if not isinstance(found, dict) or not set(keys) <= found.keys():
        raise InputError(f"BUNDLE: {str(path)!r} lacks one of {', '.join(keys)}")
    return found
