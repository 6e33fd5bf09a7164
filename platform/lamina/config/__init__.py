"""A job file, checked: YAML -> Job; overrides; the search space; what a job is built from.

Everything that can be wrong with a job is found here, before anything is loaded or started: first
keys, names and types (`words`), without torch; then what values mean together.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lamina.config.build import build_learner, check_components, keep_features
    from lamina.config.fields import ConfigError
    from lamina.config.forking import fork_trial
    from lamina.config.job import Job, load_job, parse_job
    from lamina.config.plan import Point, SweepPlan, Trial, expand, lone_trial
    from lamina.config.settings import HostSettings, SweepSettings, TrackingSettings
    from lamina.config.space import Domain
    from lamina.config.stages import Stage, first_stage, shared_stages, stage_id
    from lamina.config.words import check_words

_HOMES = {
    "build": ("build_learner", "check_components", "keep_features"),
    "fields": ("ConfigError",),
    "forking": ("fork_trial",),
    "job": ("Job", "load_job", "parse_job"),
    "plan": ("Point", "SweepPlan", "Trial", "expand", "lone_trial"),
    "settings": ("HostSettings", "SweepSettings", "TrackingSettings"),
    "space": ("Domain",),
    "stages": ("Stage", "first_stage", "shared_stages", "stage_id"),
    "words": ("check_words",),
}
"""Each name is imported when it is asked for: most need torch, which takes seconds."""

__all__ = [
    "ConfigError",
    "Domain",
    "HostSettings",
    "Job",
    "Point",
    "Stage",
    "SweepPlan",
    "SweepSettings",
    "TrackingSettings",
    "Trial",
    "build_learner",
    "check_components",
    "check_words",
    "expand",
    "first_stage",
    "fork_trial",
    "keep_features",
    "load_job",
    "lone_trial",
    "parse_job",
    "shared_stages",
    "stage_id",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
