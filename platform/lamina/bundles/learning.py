"""Learning on: the learner of a bundle before one more task, as if its stream had always had it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from lamina.backbones.backbone import Backbone
from lamina.bundles.bundle import Bundle
from lamina.bundles.facts import DataFacts
from lamina.bundles.pixels import unpacked
from lamina.bundles.writing import end_of_ids
from lamina.config.build import build_learner
from lamina.config.fields import ConfigError
from lamina.config.forking import fork_trial
from lamina.config.identity import stream_content
from lamina.config.job import Job, parse_job
from lamina.config.overrides import laid_over, nested
from lamina.config.reading import read_overrides
from lamina.config.sections import stays
from lamina.core import PARTS, Batch, Experience, Samples, Stream, Task
from lamina.digests import LEARNED_FROM, digest_of
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, build_stream
from lamina.training.learner import Learner

_DATA = ("stream", "scenario")
"""The sections of a job that say what is learned next."""


@dataclass(frozen=True)
class Stage:
    """Tasks that were, or will be, learned from one source of data."""

    facts: DataFacts
    stream: Stream[Samples] | None
    """The rows of the stage; None where they are not there any more."""


@dataclass(frozen=True)
class Continuation:
    """A bundle with what comes next."""

    bundle: Bundle
    job: Job
    """With the changes for the next task."""
    stages: tuple[Stage, ...]
    """The stages of the bundle, and the new one."""

    @property
    def new(self) -> Stage:
        """The new stage."""
        return self.stages[-1]

    @property
    def missing(self) -> int:
        """How many earlier tasks have no rows any more: they cannot be evaluated again."""
        return sum(each.facts.num_tasks for each in self.stages if each.stream is None)

    @property
    def known_classes(self) -> list[str]:
        """Classes of the new stage that the bundle knows."""
        assert self.new.stream is not None
        return [name for name in self.new.stream.class_names if name in self._old_names]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names of the bundle, then the new ones."""
        assert self.new.stream is not None
        return tuple(dict.fromkeys((*self._old_names, *self.new.stream.class_names)))

    @property
    def _old_names(self) -> tuple[str, ...]:
        return self.bundle.facts.class_names

    def learner(self, backbone: Backbone) -> Learner:
        """The bundle's learner, with its next task ahead.

        Raises InputError where the new rows are of another kind than the backbone reads.
        """
        stream = self._encoded(backbone)
        learner = build_learner(self.job, stream, backbone)
        learner.load_state_dict({**self.bundle.model, **self.bundle.learner})
        return learner

    def _encoded(self, backbone: Backbone) -> Stream[Batch]:
        """All tasks in order, as the backbone takes them; those whose rows are missing have the
        memory's exemplars at most."""
        number = {name: index for index, name in enumerate(self.class_names)}
        there = {
            place: backbone.encode_stream(_renumbered(each, number, self._first_task(place)))
            for place, each in enumerate(self.stages)
            if each.stream is not None
        }
        new = there[len(self.stages) - 1]
        exemplars = self._exemplars()
        experiences: list[Experience[Batch]] = []
        for place in range(len(self.stages)):
            if place in there:
                experiences.extend(there[place].experiences)
            else:
                empty = new.experiences[0].train[slice(0, 0)]
                experiences.extend(self._without_rows(place, empty, exemplars))
        return replace(new, class_names=self.class_names, experiences=tuple(experiences))

    def _without_rows(
        self, place: int, empty: Batch, exemplars: Batch | None
    ) -> list[Experience[Batch]]:
        first, facts = self._first_task(place), self.stages[place].facts
        found = []
        for index in range(first, first + facts.num_tasks):
            known = self.bundle.facts.tasks[index]
            task = Task(index, known.name, known.classes, self.bundle.facts.names_of(known))
            bare = replace(empty, task=task)
            found.append(Experience(task, bare, bare, bare))
        if exemplars is not None:
            own = (exemplars.ids >= facts.first_id) & (exemplars.ids < facts.end_id)
            train = replace(exemplars[own.nonzero()[:, 0]], task=found[0].task)
            found[0] = replace(found[0], train=train)
        return found

    def _exemplars(self) -> Batch | None:
        kept = self.bundle.learner["exemplars"]
        if kept is None:
            return None
        inputs = {name: unpacked(each) for name, each in kept["inputs"].items()}
        return Batch(inputs, kept["labels"], kept["ids"])

    def _first_task(self, place: int) -> int:
        return sum(each.facts.num_tasks for each in self.stages[:place])


def continuation(bundle: Bundle, changes: Sequence[str]) -> Continuation:
    """The job of `lamina learn BUNDLE KEY=VALUE...`: `stream.` and `scenario.` keys say what is
    learned next, and others change as those of a fork do.

    Raises InputError where the changes say no new data, change what the bundle's tensors depend on,
    or cannot be read, and where a bundle's stream has no next task.
    """
    _check_scenario(bundle)
    job = _changed(bundle, changes)
    cut = _cut(job)
    stream = _named(build_stream(job.stream, cut, job.seed), job, bundle)
    first_id = bundle.facts.data[-1].end_id
    new = DataFacts(
        stream=job.settings()["stream"],
        scenario=asdict(cut),
        seed=job.seed,
        digest=stream_content(stream),
        num_tasks=len(stream),
        first_id=first_id,
        end_id=first_id + end_of_ids(stream),
    )
    earlier = [_reread(bundle, each) for each in bundle.facts.data]
    digest = digest_of([each.facts.digest for each in earlier] + [new.digest])
    learned_from = {"stream": digest, "backbone": bundle.facts.backbone.digest}
    known = replace(
        job, learned_from=learned_from, mapping={**job.mapping, LEARNED_FROM: learned_from}
    )
    return Continuation(bundle, known, (*earlier, Stage(new, stream)))


def _changed(bundle: Bundle, changes: Sequence[str]) -> Job:
    problems: list[str] = []
    over = nested(read_overrides(changes), problems)
    if problems:
        raise ConfigError(*problems)
    data = {key: over[key] for key in _DATA if key in over}
    if "stream" not in data:
        raise InputError("stream: missing: what is to be learned? (allowed: stream.path=FILE)")
    others = [each for each in changes if each.partition(".")[0] not in _DATA]
    job = fork_trial(bundle.job.mapping, others).job if others else bundle.job
    mapping = {key: each for key, each in job.mapping.items() if key != LEARNED_FROM}
    laid = laid_over(mapping, data, stays)
    # Rows are dealt into no number of tasks here, so that a column of tasks is asked for.
    scenario = {**laid["scenario"], "num_tasks": None}
    if scenario.get("every") is None:
        scenario["by"] = None
    return parse_job({**laid, "scenario": scenario})


def _check_scenario(bundle: Bundle) -> None:
    if bundle.job.federation is not None:
        raise InputError(
            "BUNDLE: it is the global model of a federation, and what it takes to learn on is with "
            "the clients (allowed: a bundle of one learner)"
        )
    scenario, name = bundle.facts.scenario, bundle.job.strategy_name
    if scenario == "task_free" or bundle.job.strategy.data == "all":
        what = f"strategy {name!r}" if scenario != "task_free" else "a task-free stream"
        raise InputError(f"BUNDLE: {what} has no next task (allowed: streams of tasks)")
    if bundle.job.strategy.needs_memory and bundle.job.memory is None and scenario == "joint":
        raise InputError(
            f"BUNDLE: strategy {name!r} replays, and a joint stream left it no exemplars (allowed: "
            "a bundle of a stream of tasks)"
        )


def _cut(job: Job) -> ScenarioSettings:
    """How the new rows become tasks: by calendar or by the groups of the source where the job has
    them, or all one."""
    by_calendar = job.scenario.time_column is not None and job.scenario.every is not None
    by = job.scenario.by if by_calendar else None
    cut = replace(job.scenario, recurrences=1, blurry=0.0, shuffle=False, num_tasks=None, by=by)
    is_one = not by_calendar and getattr(job.stream, "task_column", "") is None
    return replace(cut, kind="joint") if is_one else cut


def _named(stream: Stream[Samples], job: Job, bundle: Bundle) -> Stream[Samples]:
    """The new tasks under names that no other has: a single one is called as its file is."""
    taken = {each.name for each in bundle.facts.tasks}
    path = getattr(job.stream, "path", None)
    experiences = []
    for each in stream.experiences:
        name = each.task.name
        if stream.scenario == "joint":
            name = Path(path).stem if path else f"task {len(taken) + 1}"
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name} ({count})"
        taken.add(unique)
        experiences.append(replace(each, task=replace(each.task, name=unique)))
    scenario = bundle.facts.scenario
    return replace(stream, scenario=scenario, experiences=tuple(experiences))


def _reread(bundle: Bundle, facts: DataFacts) -> Stage:
    """An earlier stage, with its rows if they are where they were, and are what they were."""
    try:
        mapping = {**bundle.job.mapping, "stream": facts.stream}
        mapping.pop(LEARNED_FROM, None)
        job = parse_job(mapping)
        stream = build_stream(job.stream, ScenarioSettings(**facts.scenario), facts.seed)
    except InputError:
        return Stage(facts, None)
    is_the_same = stream_content(stream) == facts.digest
    return Stage(facts, stream if is_the_same else None)


def _renumbered(stage: Stage, number: Mapping[str, int], first_task: int) -> Stream[Samples]:
    """A stage's stream with the class numbers, ids and task indices of the whole."""
    stream = stage.stream
    assert stream is not None
    table = torch.tensor([number[name] for name in stream.class_names], dtype=torch.int64)

    def moved(rows: Samples) -> Samples:
        labels = table[rows.labels] if rows.targets is None else rows.labels
        return replace(rows, labels=labels, ids=rows.ids + stage.facts.first_id)

    experiences = tuple(
        Experience(
            Task(
                first_task + place, each.task.name, tuple(table[list(each.task.classes)].tolist())
            ),
            *(moved(each.part(part)) for part in PARTS),
        )
        for place, each in enumerate(stream.experiences)
    )
    # By their new numbers, classes are named by the list of all.
    return replace(stream, class_names=tuple(number), experiences=experiences)
