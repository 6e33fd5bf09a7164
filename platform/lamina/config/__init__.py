"""A job file, checked: YAML -> Job; overrides; the search space; what a job is built from.

Everything that can be wrong with a job is found here, before anything is loaded or started.
"""

from lamina.config.build import build_learner, check_parts, keep_features
from lamina.config.fields import ConfigError
from lamina.config.forking import fork_trial
from lamina.config.job import (
    HostSettings,
    Job,
    SweepSettings,
    TrackingSettings,
    load_job,
    parse_job,
)
from lamina.config.plan import Point, SweepPlan, Trial, expand, lone_trial
from lamina.config.space import Domain
from lamina.config.stages import Stage, first_stage, shared_stages, stage_id

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
    "check_parts",
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
