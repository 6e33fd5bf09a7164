"""Every section of a job, read: made into its object, or checked for keys and types alone.

Only what is made imports torch, which takes seconds. So a misspelt key is told at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from lamina.config.fields import read_fields, read_settings, settings_of, unknown_key
from lamina.config.outline import Declared, Outline, outline_of
from lamina.config.overrides import SECTIONS, SPACE
from lamina.config.reading import Plain, shown
from lamina.config.sections import FAMILIES, keys_of, read_member, value_at
from lamina.config.space import read_domain
from lamina.registry import InputError

FEDERATION = "federation"


class _Class(NamedTuple):
    """Where a section's settings class is."""

    module: str
    name: str
    is_light: bool = False
    """Whether its module imports nothing that is slow."""

    def outline(self) -> Outline:
        return outline_of(self.module, self.name)

    def imported(self) -> type:
        found: type = getattr(import_module(self.module), self.name)
        return found


_CLASSES = {
    "scenario": _Class("lamina.streams.scenario", "ScenarioSettings"),
    "backbone": _Class("lamina.backbones.settings", "BackboneSettings", is_light=True),
    "training": _Class("lamina.training.settings", "TrainingSettings", is_light=True),
    "sweep": _Class("lamina.config.settings", "SweepSettings", is_light=True),
    "hosts": _Class("lamina.config.settings", "HostSettings", is_light=True),
    "tracking": _Class("lamina.config.settings", "TrackingSettings", is_light=True),
    "federation": _Class("lamina.config.federation", "FederationSettings"),
    "federation.clock": _Class("lamina.federation.server.clock", "ClockSettings"),
    "federation.drift": _Class("lamina.federation.client.correction", "DriftSettings"),
    "federation.privacy": _Class("lamina.federation.privacy.settings", "PrivacySettings"),
    "federation.privacy.summaries": _Class("lamina.federation.privacy.released", "ReleaseRule"),
}


@dataclass(frozen=True)
class Top:
    """The keys of a job that are no sections."""

    name: str
    """What a person calls it; a folder's name where `output_dir` is not given."""
    seed: int = 0
    """Every random draw follows from it."""
    output_dir: Path | None = None
    """The folder for everything the job leaves behind; null: `runs/<name>`."""
    learned_from: dict[str, str] | None = None
    """The digests of a trial's data and model (see `lamina.config.identity`)."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise InputError(f"seed: {self.seed} is negative (allowed: 0, 1, 2, ...)")
        if not self.name or "/" in self.name or "\0" in self.name or len(self.name) > 200:
            raise InputError(
                f"name: {shown(self.name)} is no name of a folder (allowed: up to 200 characters "
                "without '/')"
            )
        if self.output_dir is not None and "\0" in str(self.output_dir):
            raise InputError(
                f"output_dir: {shown(str(self.output_dir))} has a NUL (allowed: a path)"
            )


def read_sections(given: Plain, problems: list[str], make: bool = True) -> tuple[Plain, Plain]:
    """The keys that are no sections, and the sections, by name; None for what is not given or not
    right, which adds a line to `problems`. `given` is nested."""
    found: Plain = {}
    for section in SECTIONS:
        if section in FAMILIES:
            optional = section in ("adapter", "memory")
            found[section] = read_member(section, given, problems, optional, make)
        elif section == FEDERATION:
            found[section] = _read_federation(given.get(section), problems, make)
        elif section != "sweep" or given.get(section) is not None:
            found[section] = _read(section, given.get(section), problems, make)
        else:
            found[section] = None
    _read_space(given.get("sweep"), problems)
    return _read_top(given, problems), found


def _read(key: str, given: Any, problems: list[str], make: bool) -> Any:
    if given is not None and not isinstance(given, Mapping):
        problems.append(f"{key}: {shown(given)} is not allowed (allowed: a mapping)")
        return None
    cls = _CLASSES[key]
    if make or cls.is_light:
        return read_fields(cls.imported(), given or {}, key, problems)
    return read_settings(cls.outline().settings(), given or {}, key, problems)


def _read_federation(given: Any, problems: list[str], make: bool) -> Any:
    if make:
        from lamina.config.federation import read_federation

        return read_federation(given, problems)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        problems.append(f"{FEDERATION}: {shown(given)} is not allowed (allowed: a mapping or null)")
        return None
    members = _below_federation(FAMILIES)
    plain = _below_federation(_CLASSES)
    for member in members:
        read_member(f"{FEDERATION}.{member}", given, problems, optional=True, make=False)
    for key in plain:
        section = value_at(given, key)
        if section is not None:
            _read(f"{FEDERATION}.{key}", section, problems, make=False)
    read_settings(declared(FEDERATION), given, FEDERATION, problems)
    return None


def _below_federation(sections: Iterable[str]) -> list[str]:
    """The keys of `federation` that are sections."""
    above = f"{FEDERATION}."
    return [each.removeprefix(above) for each in sections if each.startswith(above)]


def _read_space(sweep: Any, problems: list[str]) -> None:
    space = sweep.get("space") if isinstance(sweep, Mapping) else None
    for key, domain in (space if isinstance(space, Mapping) else {}).items():
        read_domain(f"{SPACE}.{key}", domain, problems)


def _read_top(given: Plain, problems: list[str]) -> Plain:
    own = settings_of(Top)
    for key in given:
        if key not in own and key not in SECTIONS:
            elsewhere = [f"{name}.{key}" for name in SECTIONS if key in _keys(name, given)]
            problems.append(unknown_key(key, [*own, *SECTIONS], elsewhere))
    top = read_fields(Top, {key: given[key] for key in given if key in own}, "", problems)
    if top is None:
        return {}
    output_dir = top.output_dir or Path("runs", top.name)
    return {
        "name": top.name,
        "seed": top.seed,
        "output_dir": output_dir,
        "learned_from": top.learned_from,
    }


def _keys(section: str, given: Plain) -> list[str]:
    return keys_of(section, given) if section in FAMILIES else list(declared(section))


def declared(section: str) -> dict[str, Declared]:
    """The settings of a section whose class is always the same."""
    found = _CLASSES[section].outline().settings()
    if section == FEDERATION:
        below = [*_below_federation(FAMILIES), *_below_federation(_CLASSES)]
        found |= {key: Declared(Any, None) for key in below if "." not in key}
    return found
