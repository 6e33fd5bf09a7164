"""A sweep's trials before it starts: every combination of variant and grid, read and checked."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from lamina.config.fields import ConfigError, Unfit, unknown_key
from lamina.config.job import Job, parse_job
from lamina.config.naming import NAMING, TITLE, title_of, words_of
from lamina.config.overrides import NAMED_BY, SPACE, VARYING, dotted, laid_over, nested
from lamina.config.reading import Plain, shown
from lamina.config.sections import FAMILIES, keys_of, split_key, stays, value_at
from lamina.config.settings import SweepSettings
from lamina.config.space import Domain
from lamina.config.unused import COSTS_ALONE, Reasons, covering, given
from lamina.config.words import not_varying


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
    """The keys drawn at random that matter to it, whatever the others turn out to be."""
    variant: Plain = field(repr=False)
    """Dotted keys to lay over the job: what its variant fixes."""
    values: Plain = field(repr=False)
    """Dotted keys to lay over that: a value of each grid. Those that what is drawn does not have
    are left out."""


@dataclass(frozen=True)
class SweepPlan:
    """Everything that a sweep will try."""

    job: Job
    points: tuple[Point, ...]
    domains: dict[str, Domain]
    """What is drawn at random, by its dotted key; to which points it matters, they say."""
    notes: tuple[str, ...]
    """What is left out or changes nothing, and why: a line each."""

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
        settled = _settle(_base(self.job), point.variant, {**point.values, **values})
        own = dotted(settled.job.mapping)
        telling = {**point.trial.settings, **values}
        settings = {key: own[key] for key in telling if key in own and key not in TITLE}
        words = words_of({key: own[key] for key in values if key in settings}, telling)
        rest = point.trial.name.removeprefix(title_of(point.trial.job))
        return Trial("-".join([title_of(settled.job) + rest, *words]), settled.job, settings)


def expand(job: Job) -> SweepPlan:
    """Every variant times every grid, without repetitions.

    A key that a variant fixes does not vary in it; nor does one that its strategy, adapter kind,
    source or policy does not have, or that changes nothing beside its other settings. Raises
    ConfigError with a line for every combination that is no job, naming its variant. Each variant
    must be a complete job by itself.
    """
    sweep = job.sweep or SweepSettings()
    problems = list(not_varying(sweep.space, sweep.variants))
    if problems:
        raise ConfigError(*problems)
    draft = _Draft(_base(job), sweep.domains, skips=sweep.unfit == "skip")
    for number, variant in enumerate(sweep.variants or ({},), start=1):
        draft.add(variant, number if sweep.variants else None)
    if not draft.problems:
        draft.check_every_key_is_known()
    if draft.problems or not draft.points:
        raise ConfigError(*(draft.problems or draft.notes))
    drawn = {key: domain for key, domain in sweep.domains.items() if not domain.is_grid}
    notes = [*draft.notes, *draft.notes_on_the_job(), *_job_alone(job)]
    notes += _repeated(sweep.domains)
    if sweep.num_samples > 1 and not any(point.domains for point in draft.points):
        notes.append(
            f"sweep.num_samples: {sweep.num_samples} changes nothing, as nothing is drawn at random"
        )
    plan = SweepPlan(job, _named(draft.points), drawn, tuple(notes))
    if sweep.scheduler is not None and plan.num_trials == 1:
        note = "sweep.scheduler changes nothing: it compares trials, and the sweep has one"
        return replace(plan, notes=(*notes, note))
    return plan


def lone_trial(job: Job, overrides: Mapping[str, Any]) -> Trial:
    """The one trial that a job says when its sweep is left aside; `overrides`, by dotted key, are
    what was laid over the job's file, and tell it from other runs of that file."""
    (point,) = expand(replace(job, sweep=None)).points
    own = dotted(point.trial.job.mapping)
    settings = {key: own[key] for key in overrides if key in own and key not in TITLE}
    varying = ("seed", *VARYING)
    settings = {key: value for key, value in settings.items() if key.partition(".")[0] in varying}
    name = "-".join([point.trial.name, *words_of(settings, settings)])
    return replace(point.trial, name=name, settings=settings)


@dataclass(frozen=True)
class _Settled:
    """A combination, read."""

    job: Job
    """Without a sweep; its mapping is complete and has nothing that is of no use."""
    raw: Plain
    """The mapping that it was read from."""
    idle: Reasons
    """Of the combination's values, those that change nothing, and why."""

    def why_idle(self, key: str) -> str | None:
        """Why a key changes nothing here, whatever its value; None where it does."""
        if key in COSTS_ALONE:
            return COSTS_ALONE[key]
        if not _is_known(key, self.raw):
            return _NO_SUCH_SETTING
        above = covering(key, self.job.idle)
        return None if above is None else self.job.idle[above]


@dataclass
class _Draft:
    """A plan in the making. Each variant is gone through twice: which keys matter to it, beside
    every value of the keys that decide about others; then every combination of those that do."""

    base: Plain
    domains: dict[str, Domain]
    skips: bool
    """Whether a variant that does not fit the stream is left out."""
    problems: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    """What was found, not yet named apart."""
    _found: dict[str, tuple[str, Plain]] = field(default_factory=dict)
    """By what a point computes, the variant and the values that say so."""
    _known: set[str] = field(default_factory=set)
    """Keys of the space that some variant has or fixes."""
    _raws: list[Plain] = field(default_factory=list)
    """What was read of each variant."""
    _never: dict[str, str] | None = None
    """Keys that the job gives and that no trial so far depends on, with the section that they are
    unused with."""

    def add(self, variant: Mapping[str, Any], number: int | None) -> None:
        """All combinations of a variant."""
        where = "" if number is None else f"sweep.variants, number {number}: "
        opened: list[str] = []
        fixed = nested(variant, opened)
        self.problems |= dict.fromkeys(f"{where}{line}" for line in opened)
        try:
            alone = _settle(self.base, fixed, {})
        except ConfigError as error:
            lines = dict.fromkeys(f"{where}{line}" for line in error.problems)
            if self.skips and all(isinstance(line, Unfit) for line in error.problems):
                self.notes |= dict.fromkeys(f"{line}; left out" for line in lines)
            else:
                self.problems |= lines
            return
        if number is not None:
            where = f"sweep.variants, number {number} ({title_of(alone.job)}): "
        for key, why in given(fixed, alone.job.idle).items():
            self.notes[f"{where}{key} changes nothing: {why}"] = None
        free = {key: each for key, each in self.domains.items() if not _is_fixed(key, fixed)}
        self._known |= self.domains.keys() - free.keys()
        deciding = {key: each for key, each in free.items() if _decides(key, free, alone.job)}
        grids = {key: each.args[0] for key, each in deciding.items() if each.is_grid}
        drawn = {key: each.examples() for key, each in deciding.items() if not each.is_grid}
        for chosen in _combinations(grids):
            beside = [{**chosen, **more} for more in _combinations(drawn)]
            live = self._live(fixed, free, beside, where)
            self._expand(fixed, chosen, free, live, where)

    def _live(
        self, fixed: Plain, free: Mapping[str, Domain], beside: Sequence[Plain], where: str
    ) -> list[str]:
        """The keys that matter beside some of these values, and take all values of their own."""
        live: dict[str, Plain] = {}
        for values in beside:
            settled = self._settled(fixed, values, where)
            if settled is None:
                continue
            self._raws.append(settled.raw)
            self._note_unused(settled)
            for key in free:
                why = settled.why_idle(key)
                if why is None:
                    live.setdefault(key, values)
                else:
                    self.notes[f"{key} does not vary for {title_of(settled.job)}: {why}"] = None
                if why != _NO_SUCH_SETTING:
                    self._known.add(key)
        return [key for key, values in live.items() if self._takes(key, fixed, values, where)]

    def _takes(self, key: str, fixed: Plain, values: Plain, where: str) -> bool:
        """Whether the variant is a job with each value of a grid, or with any that is drawn."""
        sound = True
        for example in () if key in values else self.domains[key].examples():
            if self._settled(fixed, {**values, key: example}, where) is None:
                sound = False
                if not self.domains[key].is_grid:
                    break
        return sound

    def _expand(
        self,
        fixed: Plain,
        chosen: Plain,
        free: Mapping[str, Domain],
        live: Sequence[str],
        where: str,
    ) -> None:
        """Every combination of the grids among the keys that matter, with the `chosen` values of
        those that decide."""
        grids = {key: free[key].args[0] for key in live if free[key].is_grid and key not in chosen}
        drawn = tuple(key for key in free if key in live and not free[key].is_grid)
        for more in _combinations(grids):
            settled = self._settled(fixed, {**chosen, **more}, where)
            if settled is None:
                continue
            values = {
                key: value
                for key, value in {**chosen, **more}.items()
                if key not in settled.idle or (key in live and drawn)
            }
            beside = {key: value for key, value in values.items() if key in settled.idle}
            text = json.dumps([settled.job.mapping, beside, drawn], sort_keys=True)
            said = {**dotted(fixed), **values}
            if text not in self._found:
                self._found[text] = (where, said)
                trial = Trial(title_of(settled.job), settled.job, {})
                self.points.append(Point(trial, drawn, fixed, values))
            elif self._found[text] != (where, said):
                self.notes[f"{where}left out, as it repeats another variant"] = None

    def _settled(self, fixed: Plain, values: Plain, where: str) -> _Settled | None:
        """The combination; None after taking down why it is no job."""
        try:
            return _settle(self.base, fixed, values)
        except ConfigError as error:
            said = ", ".join(f"{key}={shown(value)}" for key, value in values.items())
            for line in error.problems:
                own = line.partition(":")[0] in values
                self.problems[f"{SPACE}.{line}" if own else f"{where}{line} (with {said})"] = None
            return None

    def _note_unused(self, settled: _Settled) -> None:
        """Which keys of the job no trial depends on, this one neither."""
        unused = {}
        for key in dotted(self.base):
            above = covering(key, settled.job.idle)
            if above is not None and (self._never is None or key in self._never):
                unused[key] = max(above, (self._never or {}).get(key, ""), key=len)
        self._never = unused

    def notes_on_the_job(self) -> Iterator[str]:
        """Keys that the job gives and that change nothing in any trial."""
        for above in dict.fromkeys((self._never or {}).values()):
            reasons = {point.trial.job.idle.get(above): None for point in self.points}
            why = next((each for each in reasons if each is not None), None)
            if why is not None and value_at(self.base, above) is not None:
                yield f"{above} changes nothing: {why}"

    def check_every_key_is_known(self) -> None:
        """A key that no variant can have is a mistake."""
        for key in self.domains.keys() - self._known:
            section, name = split_key(key)
            allowed = {each for raw in self._raws for each in keys_of(section, raw)}
            line = unknown_key(f"{section}.{name}", allowed | {NAMED_BY[section]})
            self.problems[f"{SPACE}.{line}"] = None


_NO_SUCH_SETTING = "it has no such setting"
_ABSENT = object()


def _base(job: Job) -> Plain:
    return {key: value for key, value in job.mapping.items() if key != "sweep"}


def _job_alone(job: Job) -> Iterator[str]:
    """Keys that no trial has anyway, and that change nothing."""
    for key, why in job.unused.items():
        if key.partition(".")[0] not in VARYING:
            yield f"{key} changes nothing: {why}"


def _repeated(domains: Mapping[str, Domain]) -> Iterator[str]:
    """Values that a grid gives more than once. (In a choice they are drawn more often.)"""
    for key, domain in domains.items():
        if not domain.is_grid:
            continue
        counts = Counter(json.dumps(each, sort_keys=True) for each in domain.args[0])
        for text, count in counts.items():
            if count > 1:
                yield f"{SPACE}.{key}: {text} is given {count} times and tried once"


def _is_fixed(key: str, fixed: Plain) -> bool:
    """Whether a variant sets the key itself, or a section (to null) that would hold it."""
    return any(key == each or key.startswith(f"{each}.") for each in dotted(fixed))


def _combinations(values: Mapping[str, Sequence[Any]]) -> Iterator[Plain]:
    for each in product(*values.values()):
        yield dict(zip(values, each, strict=True))


def _decides(key: str, free: Mapping[str, Domain], job: Job) -> bool:
    """Whether other keys matter or not by what this one is: where it names something, where it is
    no number, and where a class says so."""
    domain = free[key]
    if key in NAMING or key == "strategy.replay_size":
        return True
    if any(
        isinstance(each, bool) or not isinstance(each, int | float) for each in domain.examples()
    ):
        return True
    section, name = split_key(key)
    classes: list[Any] = [type(getattr(job, section, None))]
    naming = free.get(f"{section}.{NAMED_BY.get(section)}")
    if naming is not None:
        family = FAMILIES[section]
        classes += [family.outline(each) for each in naming.examples() if each in family.names()]
    rules = [rule for each in classes for rule in getattr(each, "matters_when", {}).values()]
    return any(name == rule.setting for rule in rules)


def _settle(base: Plain, variant: Plain, values: Plain) -> _Settled:
    """`base` with what a variant fixes, and with those of the values that mean something there.
    Raises ConfigError."""
    below = laid_over(base, variant, stays)
    naming = {key: value for key, value in values.items() if key in NAMING}
    named = laid_over(below, nested(naming, []), stays)
    known = {key: value for key, value in values.items() if _is_known(key, named)}
    job = parse_job(laid_over(below, nested(known, []), stays))
    idle = {key: _NO_SUCH_SETTING for key in values if key not in known}
    for key in known:
        above = covering(key, job.idle)
        if above is not None:
            idle[key] = job.idle[above]
    complete = replace(job, mapping=job.settings(), sweep=None)
    return _Settled(complete, job.mapping, idle)


def _is_known(key: str, mapping: Plain) -> bool:
    """Whether the class that the key's section names has it. Sections without a name are not judged
    here: an unknown key in one is a mistake in every variant."""
    section, name = split_key(key)
    return key in NAMING or section not in NAMED_BY or name in keys_of(section, mapping)


def _named(points: Sequence[Point]) -> tuple[Point, ...]:
    """The points with names that tell them apart, and with the settings that do."""
    groups: dict[str, list[Plain]] = defaultdict(list)
    for point in points:
        groups[point.trial.name].append(dotted(point.trial.job.mapping))
    names: Counter[str] = Counter()
    named = []
    for point in points:
        title, own = point.trial.name, dotted(point.trial.job.mapping)
        differing = {
            key: value
            for key, value in own.items()
            if key not in TITLE and any(each.get(key, _ABSENT) != value for each in groups[title])
        }
        name = "-".join([title, *words_of(differing, differing)])
        names[name] += 1
        if names[name] > 1:
            name = f"{name}-{names[name]}"
        said = {**dotted(point.variant), **point.values}
        given_here = {key: own[key] for key in said if key in own and key not in TITLE}
        settings = {k: each for k, each in {**given_here, **differing}.items() if each is not None}
        named.append(replace(point, trial=replace(point.trial, name=name, settings=settings)))
    return tuple(named)
