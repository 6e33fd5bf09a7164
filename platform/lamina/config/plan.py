"""A sweep's trials before it starts: every combination of variant and grid, read and checked."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from lamina.config.fields import ConfigError, Unfit, settings_of, unknown_key
from lamina.config.job import Job, SweepSettings, parse_job
from lamina.config.overrides import NAMED_BY, SPACE, dotted, laid_over, nested
from lamina.config.reading import Plain, shown
from lamina.config.sections import FAMILIES, has_setting, stays
from lamina.config.space import Domain

VARYING = (
    "seed",
    "stream",
    "scenario",
    "backbone",
    "adapter",
    "strategy",
    "memory",
    "training",
    "federation",
)
"""The keys and sections that a trial depends on, and so the only ones that may vary."""

_NAMING = {f"{section}.{by}" for section, by in NAMED_BY.items()}
_TITLE = {"strategy.name", "adapter.kind"}


@dataclass(frozen=True)
class Trial:
    """One thing to train."""

    name: str
    """Short and readable: strategy, adapter kind, and what varies."""
    job: Job
    """Complete and without a sweep. Its mapping has every default filled in and nothing that is of
    no use, so two trials with equal mappings are one trial."""
    settings: Plain
    """What tells it from others of its strategy and adapter kind, by dotted keys."""


@dataclass(frozen=True)
class Point:
    """One combination of a variant with a value of every grid: a trial, or one for each draw where
    something is drawn at random too."""

    trial: Trial
    """What it is before anything is drawn; its name is unique in the sweep."""
    domains: tuple[str, ...]
    """The keys drawn at random that matter to it."""
    overrides: Plain = field(repr=False)
    """Dotted keys to lay over the job."""


@dataclass(frozen=True)
class SweepPlan:
    """Everything that a sweep will try."""

    job: Job
    points: tuple[Point, ...]
    domains: dict[str, Domain]
    """What is drawn at random, by its dotted key; to which points it matters, they say."""
    notes: tuple[str, ...]
    """What is left out, and why: a line each."""

    @property
    def num_trials(self) -> int:
        """How many trials there are, if no scheduler or searcher decides otherwise."""
        return sum(self.num_draws(point) for point in self.points)

    def num_draws(self, point: Point) -> int:
        """How often a point is drawn: once where nothing random matters to it."""
        return self.job.sweep.num_samples if self.job.sweep and point.domains else 1

    def trial(self, point: Point, drawn: Mapping[str, Any]) -> Trial:
        """The trial at a point with these values of the random domains; what does not matter to the
        point is ignored. Raises ConfigError where the values do not go together."""
        values = {key: drawn[key] for key in point.domains}
        if not values:
            return point.trial
        settled = _settle(_base(self.job), point.overrides, values)
        applied = {key: value for key, value in values.items() if key in settled.overrides}
        words = words_of(applied, {*point.trial.settings, *values})
        return Trial(
            "-".join([point.trial.name, *words]), settled.job, {**point.trial.settings, **applied}
        )


def expand(job: Job) -> SweepPlan:
    """Every variant times every grid, without repetitions.

    A key that a variant fixes does not vary in it; nor does one that its strategy, adapter kind,
    source or policy does not have; and what a strategy has no use for makes no further trials.
    Raises ConfigError with a line for every combination that is no job, naming its variant. Each
    variant must be a complete job by itself.
    """
    sweep = job.sweep or SweepSettings()
    domains = sweep.domains
    problems = list(_not_varying(sweep))
    if problems:
        raise ConfigError(*problems)
    draft = _Draft(_base(job), domains, skips=sweep.unfit == "skip")
    for number, variant in enumerate(sweep.variants or ({},), start=1):
        draft.add(variant, number if sweep.variants else None)
    if draft.problems:
        raise ConfigError(*draft.problems)
    draft.check_every_key_is_known()
    if not draft.found:
        raise ConfigError(*draft.notes)
    if draft.problems:
        raise ConfigError(*draft.problems)
    drawn = {key: domain for key, domain in domains.items() if not domain.is_grid}
    notes = list(draft.notes)
    if sweep.num_samples > 1 and not any(domains for _, _, domains in draft.found.values()):
        notes.append(
            f"sweep.num_samples: {sweep.num_samples} changes nothing, as nothing is drawn at random"
        )
    return SweepPlan(job, draft.points(), drawn, tuple(notes))


def lone_trial(job: Job, overrides: Mapping[str, Any]) -> Trial:
    """The one trial that a job says when its sweep is left aside; `overrides`, by dotted key, are
    what was laid over the job's file, and tell it from other runs of that file."""
    (point,) = expand(replace(job, sweep=None)).points
    own = dotted(point.trial.job.mapping)
    settings = {key: own[key] for key in overrides if key in own and key not in _TITLE}
    settings = {key: value for key, value in settings.items() if key.partition(".")[0] in VARYING}
    name = "-".join([point.trial.name, *words_of(settings, settings)])
    return replace(point.trial, name=name, settings=settings)


@dataclass(frozen=True)
class _Settled:
    """A combination, read."""

    job: Job
    overrides: Plain
    """The combination without the values that change nothing."""
    idle: dict[str, str]
    """The values that change nothing, and why."""


@dataclass
class _Draft:
    """A plan in the making."""

    base: Plain
    domains: dict[str, Domain]
    skips: bool
    """Whether a variant that does not fit the stream is left out."""
    problems: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    found: dict[str, tuple[Job, Plain, tuple[str, ...]]] = field(default_factory=dict)
    """By the text of the job: the job, its overrides, the random domains that matter to it."""
    effective: set[str] = field(default_factory=set)
    """Keys of the space that are known to some variant."""

    def add(self, variant: Mapping[str, Any], number: int | None) -> None:
        """All combinations of a variant."""
        opened: list[str] = []
        fixed = dotted(nested(variant, opened))
        where = "" if number is None else f"sweep.variants, number {number}: "
        self.problems |= dict.fromkeys(f"{where}{line}" for line in opened)
        try:
            settled = _settle(self.base, fixed, {})
        except ConfigError as error:
            lines = dict.fromkeys(f"{where}{line}" for line in error.problems)
            if self.skips and all(isinstance(line, Unfit) for line in error.problems):
                self.notes |= dict.fromkeys(f"{line}; left out" for line in lines)
            else:
                self.problems |= lines
            return
        if number is not None:
            where = f"sweep.variants, number {number} ({_title(settled.job)}): "
        free = {key: each for key, each in self.domains.items() if not _is_fixed(key, fixed)}
        self.effective |= self.domains.keys() - free.keys()
        sound = [key for key, each in free.items() if self._takes(key, each, fixed, where)]
        grids = {key: free[key].args[0] for key in sound if free[key].is_grid}
        for values in _combinations(grids):
            try:
                settled = _settle(self.base, fixed, values)
            except ConfigError as error:
                said = ", ".join(f"{key}={shown(value)}" for key, value in values.items())
                self.problems |= dict.fromkeys(
                    f"{where}{line} (with {said})" for line in error.problems
                )
                continue
            self._keep(settled, where, [key for key in sound if key not in grids])

    def _takes(self, key: str, domain: Domain, fixed: Plain, where: str) -> bool:
        """Whether the variant is a job with each value of a grid, or with any that is drawn."""
        sound = True
        for example in domain.examples():
            try:
                _settle(self.base, fixed, {key: example})
            except ConfigError as error:
                sound = False
                for line in error.problems:
                    own = line.startswith(f"{key}:")
                    said = f"{where}{line} (with {key}={shown(example)})"
                    self.problems[f"{SPACE}.{line}" if own else said] = None
                if not domain.is_grid:
                    break
        return sound

    def _keep(self, settled: _Settled, where: str, drawn: Sequence[str]) -> None:
        """Take down a combination, and which of the keys `drawn` at random matter to it."""
        self._note(settled)
        matter = []
        for key in drawn:
            tried = _settle(self.base, settled.overrides, {key: self.domains[key].examples()[0]})
            self._note(tried)
            section = key.partition(".")[0]
            if key in tried.overrides or f"{section}.{NAMED_BY.get(section)}" in drawn:
                matter.append(key)
        text = json.dumps(settled.job.mapping, sort_keys=True)
        if text not in self.found:
            self.found[text] = (settled.job, settled.overrides, tuple(matter))
        elif self.found[text][1] != settled.overrides:
            self.notes[f"{where}left out, as it repeats another variant"] = None

    def _note(self, settled: _Settled) -> None:
        """Remember which keys mean something somewhere, and say which change nothing here."""
        self.effective |= settled.overrides.keys()
        for key, why in settled.idle.items():
            self.notes[f"{key} does not vary for {_title(settled.job)}: {why}"] = None
            if why != _NO_SUCH_SETTING:
                self.effective.add(key)

    def check_every_key_is_known(self) -> None:
        """A key that no variant knows is a mistake."""
        for key in self.domains:
            if key not in self.effective:
                section, _, name = key.partition(".")
                sections = [job.mapping.get(section) for job, _, _ in self.found.values()]
                names = {each[NAMED_BY[section]] for each in sections if each}
                allowed = {
                    setting
                    for each in names
                    for setting in settings_of(FAMILIES[section].class_of(each))
                }
                line = unknown_key(f"{section}.{name}", allowed | {NAMED_BY[section]})
                self.problems[f"{SPACE}.{line}"] = None

    def points(self) -> tuple[Point, ...]:
        """What was found, named."""
        found = list(self.found.values())
        groups: dict[str, list[Plain]] = defaultdict(list)
        for job, _, _ in found:
            groups[_title(job)].append(dotted(job.mapping))
        names: Counter[str] = Counter()
        points = []
        for job, overrides, domains in found:
            own, group = dotted(job.mapping), groups[_title(job)]
            differing = {
                key: value
                for key, value in own.items()
                if key not in _TITLE and any(each.get(key, _ABSENT) != value for each in group)
            }
            name = "-".join([_title(job), *words_of(differing, differing)])
            names[name] += 1
            if names[name] > 1:
                name = f"{name}-{names[name]}"
            given = {key: own[key] for key in overrides if key in own and key not in _TITLE}
            settings = {
                key: value for key, value in {**given, **differing}.items() if value is not None
            }
            points.append(Point(Trial(name, job, settings), domains, overrides))
        return tuple(points)


_NO_SUCH_SETTING = "it has no such setting"
_ABSENT = object()


def _base(job: Job) -> Plain:
    return {key: value for key, value in job.mapping.items() if key != "sweep"}


def _not_varying(sweep: SweepSettings) -> Iterator[str]:
    allowed = ", ".join(VARYING)
    for key in sweep.space:
        section = key.partition(".")[0]
        if section not in VARYING:
            yield unknown_key(f"{SPACE}.{section}", VARYING).replace(
                "unknown key", "cannot vary", 1
            )
        elif key == section and section != "seed":
            yield f"{SPACE}.{key}: is a section (allowed: one of its keys, as in training.epochs)"
    for number, variant in enumerate(sweep.variants, start=1):
        for key in nested(variant, []):
            if key not in VARYING:
                yield f"sweep.variants, number {number}: {key} cannot vary (allowed: {allowed})"


def _is_fixed(key: str, fixed: Mapping[str, Any]) -> bool:
    """Whether a variant sets the key itself, or a section (to null) that would hold it."""
    return any(key == each or key.startswith(f"{each}.") for each in fixed)


def _combinations(grids: Mapping[str, Sequence[Any]]) -> Iterator[Plain]:
    for values in product(*grids.values()):
        yield dict(zip(grids, values, strict=True))


def _settle(base: Plain, fixed: Plain, values: Plain) -> _Settled:
    """`base` with the fixed keys and those of the values that mean something there. Raises
    ConfigError."""
    naming = {key: value for key, value in values.items() if key in _NAMING}
    named = laid_over(base, nested({**fixed, **naming}, []), stays)
    known = {key: value for key, value in values.items() if key in naming or _is_known(key, named)}
    idle = {key: _NO_SUCH_SETTING for key in values if key not in known}
    job = parse_job(laid_over(base, nested({**fixed, **known}, []), stays))
    unused = job.unused
    for key in [each for each in known if each.partition(".")[0] in unused]:
        idle[key] = unused[key.partition(".")[0]]
        del known[key]
    return _Settled(parse_job(job.settings()), {**fixed, **known}, idle)


def _is_known(key: str, mapping: Plain) -> bool:
    """Whether the named class of the key's section has it. Sections without a name are not judged
    here: an unknown key in one is a mistake in every variant."""
    section, _, name = key.partition(".")
    if section not in NAMED_BY:
        return True
    given = mapping.get(section)
    if not isinstance(given, dict):
        return False
    return has_setting(section, str(given.get(NAMED_BY[section])), name.partition(".")[0])


def _title(job: Job) -> str:
    return job.strategy_name if job.adapter is None else f"{job.strategy_name}-{job.adapter.name}"


def words_of(values: Mapping[str, Any], among: Collection[str]) -> list[str]:
    """Values as parts of a name: `lr0.002`, `size100`; a section is named where its key is not
    enough to tell it from the other keys that are `among` them."""
    lasts = Counter(key.rpartition(".")[2] for key in among)
    words = []
    for key, value in values.items():
        last = key.rpartition(".")[2]
        label = key.replace(".", "_") if lasts[last] > 1 else last
        label = "lr" if label == "learning_rate" else label
        if value is None:
            word = f"no_{label}"
        elif key in _NAMING or key in ("scenario.kind", "backbone.name"):
            word = str(value)
        else:
            word = f"{label}{value:.4g}" if isinstance(value, float) else f"{label}{value}"
        words.append(re.sub(r"[^A-Za-z0-9_.+-]+", "_", word).strip("_"))
    return words
