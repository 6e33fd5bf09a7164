"""The sections of a job that say how it is searched, where it runs and what is recorded."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from lamina.config.overrides import SPACE
from lamina.config.reading import shown
from lamina.config.space import Domain, read_domain
from lamina.config.tune_classes import SCHEDULERS, SEARCHERS
from lamina.evaluation.accuracy_matrix import AccuracyMatrix
from lamina.evaluation.measures import measure_names, named
from lamina.registry import InputError, Where, unknown

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
    metric: str | None = None
    """What schedulers, searchers and the leaderboard go by. Never of the test part. Default: the
    average of the measure, `validation/average_accuracy` for classes."""
    mode: Literal["max", "min"] | None = None
    """Whether more or less of it is better. Default: as of the measure."""
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
    checkpoint_steps: int | None = None
    """After so many steps within a task a trial is kept, so that a host (or `lamina run`) that dies
    loses no more of a long task; null: at the end of each task only."""

    matters_when: ClassVar[dict[str, Where]] = {"unfit": Where("variants")}

    def __post_init__(self) -> None:
        if not 0 <= self.verify <= 1:
            raise InputError(f"sweep.verify: {self.verify} is no share (allowed: 0 to 1)")
        _check_positive(
            "sweep",
            num_samples=self.num_samples,
            max_concurrent=self.max_concurrent,
            checkpoint_steps=self.checkpoint_steps,
        )
        if self.metric is not None:
            _check_metric(self.metric)
        problems: list[str] = []
        for family, given in ((SCHEDULERS, self.scheduler), (SEARCHERS, self.searcher)):
            if given is not None and not isinstance(given.get("name"), str):
                problems.append(
                    f"{family.key}: {shown(given)} is not allowed "
                    "(allowed: null or a mapping with a name)"
                )
            elif given is not None:
                family.read(given, problems)
        if problems:
            raise InputError("\n".join(problems))

    @property
    def domains(self) -> dict[str, Domain]:
        """`space`, read."""
        read = {key: read_domain(f"{SPACE}.{key}", given, []) for key, given in self.space.items()}
        return {key: domain for key, domain in read.items() if domain is not None}


def _check_metric(metric: str) -> None:
    known = [f"validation/{named(name, each)}" for each in measure_names() for name in _SUMMARIES]
    known = [*dict.fromkeys(known), "validation/macro_f1"]
    if metric.startswith("test/"):
        raise InputError(
            f"sweep.metric: {metric!r} is not allowed, as nothing may be chosen on the "
            f"test part; did you mean {metric.replace('test/', 'validation/', 1)!r}?"
        )
    if not metric.startswith(("train/", "cost/")) and metric not in known:
        raise unknown("sweep.metric", metric, known)


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
    workers_per_trial: int = 1
    """Processes that train a trial together, each on a device of its own and on a share of every
    batch. A host is as many processes; it trains one trial at a time where they are several."""
    features_gb: float = 4.0
    """Disk on each machine for what the frozen layers make of samples; 0 keeps nothing."""
    features_dir: Path | None = None
    """The folder for it; null: `features` in `$LAMINA_CACHE`, or in the user's cache."""

    matters_when: ClassVar[dict[str, Where]] = {
        "cohort": Where("workers_per_trial", 1),
        "features_dir": Where("features_gb"),
    }

    def __post_init__(self) -> None:
        _check_positive(
            "hosts",
            count=self.count,
            threads=self.threads,
            cohort=self.cohort,
            workers_per_trial=self.workers_per_trial,
        )
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
    register: bool = False
    """Whether the best bundle of a sweep becomes a version of the registered model that has the
    job's name."""
    system_metrics: bool = True
    """Whether the load of the machine that the sweep is started on (processor, memory, disk,
    network, GPUs) is recorded with the sweep, every 10 seconds."""

    matters_when: ClassVar[dict[str, Where]] = {
        "mlflow_uri": Where("enabled"),
        "experiment": Where("enabled"),
        "register": Where("enabled"),
        "system_metrics": Where("enabled"),
    }


def _check_positive(section: str, **values: int | None) -> None:
    for key, value in values.items():
        if value is not None and value < 1:
            raise InputError(f"{section}.{key}: {value} is not positive")
