"""A job: what a YAML file in jobs/ says, checked as a whole before anything is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lamina.adapters.base import AdapterKind
from lamina.backbones.backbone import BackboneSettings
from lamina.config.federation import SECTION, Federation, not_together, read_federation
from lamina.config.fields import ConfigError, Unfit, read_fields, settings_of, unknown_key
from lamina.config.overrides import NAMED_BY, SPACE, dotted, laid_over, nested
from lamina.config.reading import Plain, is_job_file, read_job_file, read_overrides, shown
from lamina.config.sections import read_member, stays
from lamina.config.space import Domain, read_domain
from lamina.evaluation.accuracy_matrix import AccuracyMatrix
from lamina.memory import policy_names
from lamina.memory.base import Policy
from lamina.registry import InputError, unknown
from lamina.strategies.base import NO_ADAPTER, Strategy
from lamina.streams import ScenarioSettings, Source
from lamina.training.settings import TrainingSettings

_SUMMARIES = AccuracyMatrix([1, 1], [[1.0, 1.0], [1.0, 1.0]]).summaries(chance=0.5)
"""By its name, each summary of R that is defined once two tasks are learned."""


@dataclass(frozen=True)
class SweepSettings:
    """Which trials a sweep has, and how it finds the best of them."""

    variants: tuple[dict[str, Any], ...] = ()
    """Changes to the job, each the base of its own trials; none: the job itself is the only one."""
    space: dict[str, Any] = field(default_factory=dict)
    """What varies in every variant that does not fix it: a dotted key -> {function of ray.tune:
    its arguments}."""
    unfit: Literal["refuse", "skip"] = "refuse"
    """What becomes of a variant whose strategy does not go with the scenario or the stream: the job
    is refused, or the variant is left out and the plan says why."""
    num_samples: int = 1
    """How often what is drawn at random is drawn; a grid is tried in full each time."""
    metric: str = "validation/average_accuracy"
    """What schedulers, searchers and the leaderboard go by. Never of the test part."""
    mode: Literal["max", "min"] = "max"
    """Whether more or less of it is better."""
    scheduler: dict[str, Any] | None = None
    """`task_halving` or Ray Tune's scheduler by `name`, with its arguments; null lets every trial
    end by itself."""
    searcher: dict[str, Any] | None = None
    """Ray Tune's searcher by `name`, with its arguments; null draws at random."""
    max_concurrent: int | None = None
    """Trials at a time; null: as many as the hosts take."""
    verify: float = 0.0
    """The share of the trials that is trained again alone when the sweep ends, to prove that
    packing, kept features and shared stages changed nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.verify <= 1:
            raise InputError(f"sweep.verify: {self.verify} is no share (allowed: 0 to 1)")
        _check_positive("sweep", num_samples=self.num_samples, max_concurrent=self.max_concurrent)
        known = [f"validation/{name}" for name in _SUMMARIES]
        if not self.metric.startswith(("test/", "train/", "cost/")) and self.metric not in known:
            raise unknown("sweep.metric", self.metric, known)
        if self.metric.startswith("test/"):
            raise InputError(
                f"sweep.metric: {self.metric!r} is not allowed, as nothing may be chosen on the "
                f"test part; did you mean {self.metric.replace('test/', 'validation/', 1)!r}?"
            )
        for key, given in (("scheduler", self.scheduler), ("searcher", self.searcher)):
            if given is not None and not isinstance(given.get("name"), str):
                raise InputError(
                    f"sweep.{key}: {shown(given)} is not allowed "
                    "(allowed: null or a mapping with a name)"
                )

    @property
    def domains(self) -> dict[str, Domain]:
        """`space`, read."""
        read = {key: read_domain(f"{SPACE}.{key}", given, []) for key, given in self.space.items()}
        return {key: domain for key, domain in read.items() if domain is not None}


@dataclass(frozen=True)
class HostSettings:
    """The workers that hold a backbone each."""

    count: int | None = None
    """How many; null: one per GPU, or one per CPU core where there is none."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the backbones are; auto: on GPUs if there are any."""
    threads: int = 1
    """Threads of torch in each."""
    cohort: int | None = None
    """Trials that a host trains at a time; null: as many as pay, which it tries out."""
    features_gb: float = 4.0
    """Disk on each machine for what the frozen layers make of samples; 0 keeps nothing."""
    features_dir: Path | None = None
    """The folder for it; null: `features` in `$LAMINA_CACHE`, or in the user's cache."""

    def __post_init__(self) -> None:
        _check_positive("hosts", count=self.count, threads=self.threads, cohort=self.cohort)
        if self.features_gb < 0:
            raise InputError(f"hosts.features_gb: {self.features_gb} is negative")


@dataclass(frozen=True)
class TrackingSettings:
    """Where runs are recorded."""

    enabled: bool = True
    """Whether MLflow is written at all, and pictures of R are drawn for it."""
    mlflow_uri: str | None = None
    """A tracking server or database; null: `mlflow.db` in the output folder."""
    experiment: str | None = None
    """MLflow's experiment; null: the job's name."""


@dataclass(frozen=True)
class Job:
    """A job file with its overrides, every section read."""

    name: str
    """What a person calls it."""
    seed: int
    """Every random draw follows from it."""
    stream: Source
    scenario: ScenarioSettings
    backbone: BackboneSettings
    adapter: AdapterKind | None
    """None too where the strategy has no use for one (see `unused`)."""
    strategy: Strategy
    memory: Policy | None
    """None too where the strategy has no use for one (see `unused`)."""
    training: TrainingSettings
    federation: Federation | None
    """None where one learner sees all rows."""
    sweep: SweepSettings | None
    hosts: HostSettings
    tracking: TrackingSettings
    output_dir: Path
    """The folder for everything the job leaves behind."""
    mapping: Plain = field(repr=False)
    """The plain mapping that it was read from, nested, as JSON: `parse_job(job.mapping) == job`."""

    @property
    def strategy_name(self) -> str:
        """As in the job."""
        name: str = self.mapping["strategy"]["name"]
        return name

    @property
    def unused(self) -> dict[str, str]:
        """Sections that the job gives and that change nothing, and why."""
        unused = unused_by(self.strategy_name, type(self.strategy), self.adapter is not None)
        return {name: why for name, why in unused.items() if self.mapping.get(name)}

    @property
    def steps_run_layers(self) -> bool:
        """Whether its gradient steps run layers of the backbone, as those of a head alone on kept
        features do not: an adapter is laid over it, or prompts of the method's own."""
        if not self.strategy.takes_gradient_steps(self.adapter is not None):
            return False
        return self.adapter is not None or self.strategy.family == "prompt"

    def settings(self) -> Plain:
        """The job without its sweep as a plain mapping with every default filled in and nothing
        that is of no use: `parse_job(job.settings())` computes the same, to the last bit."""
        filled: Plain = {"name": self.name, "seed": self.seed, "output_dir": str(self.output_dir)}
        for section in _SECTIONS:
            settings = getattr(self, section)
            by = NAMED_BY.get(section)
            if section == "training" and "training" in self.unused:
                size = settings.evaluation_batch_size
                settings = TrainingSettings(evaluation_batch_size=size)
            if settings is None:
                filled[section] = None
                continue
            every = asdict(settings)
            values = {key: every[key] for key in settings_of(type(settings))}
            named = {by: self.mapping[section][by]} if by else {}
            filled[section] = {**named, **values}
        if self.federation is not None:
            filled[SECTION] = self.federation.plain()
        plain: Plain = json.loads(json.dumps(filled, default=str))
        return plain


_SECTIONS = (
    "stream",
    "scenario",
    "backbone",
    "adapter",
    "strategy",
    "memory",
    "training",
    "hosts",
    "tracking",
)


def load_job(path: Path | str, overrides: Sequence[str] = ()) -> Job:
    """The job in a file, with others laid over it: first job files, in their order, then
    `KEY=VALUE` words.

    `prompt.yaml digits.yaml` is called `prompt-digits` unless a file gives a name. An overridden
    key that the sweep's space would vary varies no longer. Raises ConfigError (or InputError, when
    there is nothing to check yet) with a line for every problem.
    """
    problems: list[str] = []
    files = [Path(path), *(Path(each) for each in overrides if is_job_file(each))]
    mapping: Plain = {"name": "-".join(each.stem for each in files)}
    for each in files:
        mapping = laid_over(mapping, nested(read_job_file(each), problems), stays)
    over = nested(read_overrides(overrides), problems)
    if problems:
        raise ConfigError(*problems)
    mapping = laid_over(mapping, over, stays)
    sweep = mapping.get("sweep")
    if isinstance(sweep, dict) and isinstance(sweep.get("space"), dict):
        fixed = dotted({key: value for key, value in over.items() if key != "sweep"})
        space = {key: value for key, value in sweep["space"].items() if key not in fixed}
        mapping["sweep"] = {**sweep, "space": space}
    return parse_job(mapping)


def parse_job(mapping: Mapping[str, Any]) -> Job:
    """The job that a plain mapping says. Raises ConfigError with a line for every problem.

    The sweep's combinations are not looked at here: see `expand`.
    """
    problems: list[str] = []
    given = nested(mapping, problems)
    sections: dict[str, Any] = {
        "stream": read_member("stream", given, problems),
        "scenario": _read(ScenarioSettings, "scenario", given, problems),
        "backbone": _read(BackboneSettings, "backbone", given, problems),
        "adapter": read_member("adapter", given, problems, optional=True),
        "strategy": read_member("strategy", given, problems),
        "memory": read_member("memory", given, problems, optional=True),
        "training": _read(TrainingSettings, "training", given, problems),
        SECTION: read_federation(given.get(SECTION), problems),
        "sweep": _read_sweep(given, problems),
        "hosts": _read(HostSettings, "hosts", given, problems),
        "tracking": _read(TrackingSettings, "tracking", given, problems),
    }
    top = _read_top(given, sections, problems)
    if sections["strategy"] is not None:
        _fit_to_strategy(sections, given, problems)
    if problems:
        raise ConfigError(*problems)
    return Job(**top, **sections, mapping=given)


def _read(cls: type, section: str, given: Plain, problems: list[str]) -> Any:
    settings = given.get(section)
    if settings is not None and not isinstance(settings, Mapping):
        problems.append(f"{section}: {shown(settings)} is not allowed (allowed: a mapping)")
        return None
    return read_fields(cls, settings or {}, section, problems)


def _read_sweep(given: Plain, problems: list[str]) -> SweepSettings | None:
    if given.get("sweep") is None:
        return None
    sweep: SweepSettings | None = _read(SweepSettings, "sweep", given, problems)
    for key, domain in (sweep.space if sweep else {}).items():
        read_domain(f"{SPACE}.{key}", domain, problems)
    return sweep


@dataclass(frozen=True)
class _Top:
    """The keys of a job that are no sections."""

    name: str
    seed: int = 0
    output_dir: Path | None = None


def _read_top(given: Plain, sections: Plain, problems: list[str]) -> Plain:
    keys = [*settings_of(_Top), *sections]
    for key in given:
        if key not in keys:
            places = [
                f"{name}.{key}"
                for name, section in sections.items()
                if section is not None and key in settings_of(type(section))
            ]
            problems.append(unknown_key(key, keys, places))
    own = {key: value for key, value in given.items() if key in settings_of(_Top)}
    top = read_fields(_Top, own, "", problems)
    if top is None:
        return {}
    output_dir = top.output_dir or Path("runs", top.name)
    return {"name": top.name, "seed": top.seed, "output_dir": output_dir}


def _fit_to_strategy(sections: Plain, given: Plain, problems: list[str]) -> None:
    """Drop what the strategy has no use for, and say what does not go with it."""
    cls, name = type(sections["strategy"]), given["strategy"]["name"]
    broken = {
        section
        for section in ("adapter", "memory")
        if sections[section] is None and given.get(section) is not None
    }
    for section in unused_by(name, cls, sections["adapter"] is not None):
        if section in ("adapter", "memory"):
            sections[section] = None
            broken.discard(section)
    scenario = sections["scenario"]
    if scenario is not None and scenario.kind not in cls.scenarios:
        allowed = ", ".join(cls.scenarios)
        problems.append(
            Unfit(
                f"scenario.kind: {scenario.kind!r} does not go with strategy {name!r} "
                f"(allowed: {allowed})"
            )
        )
    stream = sections["stream"]
    if stream is not None and stream.modality not in cls.modalities:
        read = " or ".join(f"{each}s" for each in cls.modalities)
        problems.append(
            Unfit(
                f"strategy.name: {name!r} reads {read}, but the stream {stream.name!r} is of "
                f"{stream.modality}s"
            )
        )
    problems.extend(_entry(sections))
    if scenario is not None and scenario.one_pass and sections["training"] is not None:
        problems.extend(_passes(sections, name))
    if sections["training"] is not None:
        problems.extend(_probes(sections["training"], cls, name))
    adapter = sections["adapter"]
    federation, training = sections[SECTION], sections["training"]
    if federation is not None and training is not None:
        kind_name = None if adapter is None else adapter.name
        problems.extend(
            not_together(federation, name, sections["strategy"], kind_name, training, scenario)
        )
    kind = NO_ADAPTER if adapter is None else adapter.name
    if cls.adapters is not None and kind not in cls.adapters and "adapter" not in broken:
        said = "adapter: null" if adapter is None else f"adapter.kind: {kind!r}"
        allowed = ", ".join("null" if each == NO_ADAPTER else each for each in cls.adapters)
        problems.append(f"{said} does not go with strategy {name!r} (allowed: {allowed})")
    if cls.needs_memory and sections["memory"] is None and "memory" not in broken:
        problems.append(
            f"memory: missing, and strategy {name!r} draws from one "
            f"(allowed: a mapping with a size and a policy of {', '.join(policy_names())})"
        )


def _entry(sections: Plain) -> list[str]:
    """When rows cannot enter the memory as the job says."""
    memory, scenario = sections["memory"], sections["scenario"]
    given = None if memory is None else memory.entry
    if given == "task_end" and scenario is not None and scenario.one_pass:
        return [
            "memory.entry: 'task_end' does not go with an online stream, whose rows are seen once "
            "(allowed: null, as_they_pass)"
        ]
    if given == "as_they_pass" and sections[SECTION] is not None:
        return [
            "memory.entry: 'as_they_pass' does not go with a federation, whose clients keep rows "
            "of a task when it is over (allowed: null, task_end)"
        ]
    return []


def _passes(sections: Plain, name: str) -> list[str]:
    """What goes over the rows of an online stream more than once."""
    strategy = sections["strategy"]
    problems: list[str] = []
    if not strategy.takes_gradient_steps(sections["adapter"] is not None):
        return problems
    if sections["training"].epochs != 1:
        problems.append(
            f"training.epochs: {sections['training'].epochs} does not go with an online stream, "
            "whose rows are seen once (allowed: 1)"
        )
    if type(strategy).phases is not Strategy.phases:
        problems.append(
            f"scenario: an online stream shows its rows once, and strategy {name!r} goes over a "
            "task in several phases"
        )
    return problems


def _probes(training: TrainingSettings, cls: type[Strategy], name: str) -> list[str]:
    """What asks a strategy in the middle of a task that can answer only at its end: those that need
    no boundary can answer at any time."""
    given = {
        "anytime_every": training.anytime_every is not None,
        "learning_curve_batches": training.learning_curve_batches > 0,
    }
    return [
        f"training.{key}: strategy {name!r} cannot be asked in the middle of a task (only those "
        "that take task_free streams can)"
        for key, wanted in given.items()
        if wanted and "task_free" not in cls.scenarios
    ]


def unused_by(name: str, cls: type[Strategy], has_adapter: bool) -> dict[str, str]:
    """Sections of a job that change nothing for a strategy, and why."""
    unused = {}
    if cls.trained_tasks == "none" or cls.adapters == (NO_ADAPTER,):
        unused["adapter"] = f"strategy {name!r} takes none"
        has_adapter = False
    if not cls.needs_memory:
        unused["memory"] = f"strategy {name!r} replays nothing"
    if not cls.takes_gradient_steps(has_adapter):
        unused["training"] = f"strategy {name!r} takes no gradient step"
    return unused


def _check_positive(section: str, **values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < 1:
            raise InputError(f"{section}.{key}: {value} is not positive")
