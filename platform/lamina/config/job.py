"""A job: what a YAML file in jobs/ says, checked as a whole before anything is loaded."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lamina.adapters.base import AdapterKind
from lamina.backbones.settings import BackboneSettings
from lamina.config.components import FEDERATION, read_sections
from lamina.config.defaults import completed
from lamina.config.federation import Federation, read_federation
from lamina.config.fields import ConfigError, settings_of
from lamina.config.fitting import misfits
from lamina.config.overrides import NAMED_BY, SECTIONS, nested
from lamina.config.reading import Plain
from lamina.config.settings import HostSettings, SweepSettings, TrackingSettings
from lamina.config.unused import given, unused_keys, without
from lamina.config.words import JobSource, read_job
from lamina.digests import LEARNED_FROM
from lamina.evaluation.measures import measure_of, named
from lamina.memory.base import Policy
from lamina.strategies.base import Strategy
from lamina.streams import ScenarioSettings, Source
from lamina.training.settings import TrainingSettings


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
    learned_from: dict[str, str] | None
    """The digests of its data and its model (see `lamina.config.identity`); None where nobody has
    looked at them yet."""
    mapping: Plain = field(repr=False)
    """The plain mapping that it was read from, nested, as JSON: `parse_job(job.mapping) == job`."""
    idle: dict[str, str] = field(repr=False, compare=False, default_factory=dict)
    """All keys that change nothing, and why. They are at their defaults here."""

    @property
    def strategy_name(self) -> str:
        """As in the job."""
        name: str = self.mapping["strategy"]["name"]
        return name

    @property
    def measure(self) -> str:
        """What R is of."""
        return measure_of(self.training.measure, self.stream.answers).name

    @property
    def unused(self) -> dict[str, str]:
        """The keys that it gives and that change nothing, and why."""
        return given(self.mapping, self.idle)

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
        for section in SECTIONS:
            settings = getattr(self, section)
            if section == "sweep" or (section == FEDERATION and settings is None):
                continue
            if section == FEDERATION:
                filled[section] = settings.plain()
            elif settings is None:
                filled[section] = None
            else:
                by = NAMED_BY.get(section)
                named = {by: self.mapping[section][by]} if by else {}
                every = asdict(settings)
                filled[section] = named | {key: every[key] for key in settings_of(type(settings))}
        if self.learned_from is not None:
            filled[LEARNED_FROM] = self.learned_from
        plain: Plain = json.loads(json.dumps(without(filled, self.idle), default=str))
        return plain


def load_job(job: JobSource, overrides: Sequence[str] = ()) -> Job:
    """The job in a file or mapping, with files and `KEY=VALUE` words laid over it: see
    `read_job`."""
    return parse_job(read_job(job, overrides))


def parse_job(mapping: Mapping[str, Any]) -> Job:
    """The job that a plain mapping says. Raises ConfigError with a line for every problem.

    The sweep's combinations are not looked at here: see `expand`.
    """
    problems: list[str] = []
    opened = completed(nested(mapping, problems))
    top, sections = read_sections(opened, problems)
    if sections["strategy"] is not None:
        problems += misfits(sections, opened)
    if problems:
        raise ConfigError(*problems)
    training, stream = sections["training"], sections["stream"]
    if sections[FEDERATION] is None:  # Its clients count right rows.
        sections["training"] = replace(training, measure=training.measure or stream.measure)
    sections["sweep"] = _ranking(sections["sweep"], sections["training"], sections["stream"])
    return _without_unused(Job(**top, **sections, mapping=opened))


def _ranking(
    sweep: SweepSettings | None, training: TrainingSettings, stream: Source
) -> SweepSettings | None:
    """A sweep that knows what it goes by."""
    if sweep is None:
        return None
    measure = measure_of(training.measure, stream.answers)
    metric = sweep.metric or named("validation/average_accuracy", measure.name)
    mode = sweep.mode or ("max" if sweep.metric else measure.better)
    return replace(sweep, metric=metric, mode=mode)


def _without_unused(job: Job) -> Job:
    """The same job where all that changes nothing is at its default, or None."""
    idle = unused_keys(job)
    changed: Plain = {"idle": idle}
    for key in idle:
        section, _, name = key.partition(".")
        settings = changed.get(section, getattr(job, section))
        if not name:
            changed[section] = None
        elif settings is None:
            continue
        elif section == FEDERATION:
            plain = without({section: settings.plain()}, {key: ""})
            changed[section] = read_federation(plain[section], [])
        elif (default := settings_of(type(settings))[name].default) is not MISSING:
            changed[section] = replace(settings, **{name: default})
    return replace(job, **changed)
