"""Keys of a federated job that change nothing in it, and why.

They are of `training`, whose budget a client does not follow, and of `federation` itself, where one
key decides whether another is read. `tests/config/test_unused_in_federation.py` walks every key.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lamina.config.fields import settings_of
from lamina.federation.aggregators.flexlora import FlexLoRA
from lamina.federation.fitness import previews, reviews
from lamina.federation.privacy.settings import PrivacySettings
from lamina.training.settings import TrainingSettings

if TYPE_CHECKING:
    from lamina.config.federation import Federation
    from lamina.config.job import Job

Unused = Iterator[tuple[str, str]]
"""Dotted keys with the reason why each changes nothing. A section stands for all keys below it."""

_OF_ROUNDS = (
    "rounds",
    "participation",
    "sampling",
    "mode",
    "over_selection",
    "deadline",
    "buffer",
    "local_epochs",
    "local_steps",
    "ranks",
    "server_optimiser",
    "clock",
    "drift",
)
"""Keys of `federation` that are read in a training round only."""
_READ_AT_BOUNDARIES = ("shared",)
"""Settings of aggregators that are read when a task begins or ends, too."""


def unused_in_federation(job: "Job") -> dict[str, str]:
    """By dotted key, why it changes nothing in a federated job, whether the job gives it or not;
    empty where the job has no federation."""
    federation = job.federation
    if federation is None:
        return {}
    found: dict[str, str] = dict(_of_the_manifest(federation))
    found["hosts.workers_per_trial"] = "a client's work is one process's"
    if type(job.strategy).takes_gradient_steps(job.adapter is not None):
        found |= dict(_of_the_budget(federation))
        found |= dict(_of_the_round(federation))
    else:
        found |= dict(_without_steps(job, federation))
    if federation.privacy is not None:
        found |= dict(_of_privacy(job, federation.privacy))
    return found


def _of_the_manifest(federation: "Federation") -> Unused:
    if federation.settings.manifest is not None:
        for key in ("clients", "partition", "arrival"):
            yield f"federation.{key}", "federation.manifest says which client gets which rows when"


def _of_the_budget(federation: "Federation") -> Unused:
    """What a client trains in a round, and when it is evaluated."""
    if federation.settings.local_steps is not None:
        yield "training.epochs", "a client takes federation.local_steps steps in a round"
        yield "federation.local_epochs", "federation.local_steps is given"
    else:
        yield "training.epochs", "a client makes federation.local_epochs passes in a round"
    for key in ("anytime_every", "learning_curve_batches", "drift", "general"):
        yield f"training.{key}", "a federation is evaluated after each step of the stream only"


def _of_the_round(federation: "Federation") -> Unused:
    """Whom a round asks, for whom it waits, and how updates are combined."""
    settings, clock = federation.settings, federation.clock
    if settings.mode != "buffered":
        yield "federation.buffer", f"federation.mode is {settings.mode!r}"
    if settings.participation == 1:
        yield "federation.sampling", "federation.participation is 1: every client is asked"
        yield "federation.over_selection", "federation.participation is 1: no client is left to ask"
    waits_for_all = settings.over_selection == 1 or settings.participation == 1
    if settings.mode == "deadline" and settings.deadline is None and waits_for_all:
        yield "federation.mode", "a deadline round without federation.deadline waits for all"
    if clock.bytes_per_second is None:
        yield (
            "federation.clock.bandwidth_spread",
            "federation.clock.bytes_per_second is null: sending takes no time",
        )
    if federation.drift.name != "fedprox":
        yield "federation.drift.mu", f"federation.drift.name is {federation.drift.name!r}"
    if isinstance(federation.aggregator, FlexLoRA) and len(set(settings.ranks)) < 2:
        yield "federation.aggregator.by_slice", "all clients have one rank (federation.ranks)"


def _without_steps(job: "Job", federation: "Federation") -> Unused:
    """A strategy without gradient steps learns from sums at the boundaries of tasks: no round."""
    why = f"strategy {job.strategy_name!r} takes no gradient step, so there are no rounds"
    for key in settings_of(TrainingSettings).keys() - {"evaluation_batch_size"}:
        yield f"training.{key}", why
    for key in _OF_ROUNDS:
        yield f"federation.{key}", why
    for key in settings_of(type(federation.aggregator)).keys() - set(_READ_AT_BOUNDARIES):
        yield f"federation.aggregator.{key}", why


def _of_privacy(job: "Job", privacy: PrivacySettings) -> Unused:
    section, strategy = "federation.privacy", type(job.strategy)
    takes_steps = strategy.takes_gradient_steps(job.adapter is not None)
    stepless = f"strategy {job.strategy_name!r} takes no gradient step"
    rule = privacy.summaries
    asks_for_sums = previews(strategy) or reviews(strategy)
    noise_on_sums = asks_for_sums and rule is not None and rule.release is not None
    noise_on_steps = takes_steps and privacy.clip is not None
    if not asks_for_sums:
        yield f"{section}.summaries", f"strategy {job.strategy_name!r} asks for no sums over rows"
    elif rule is not None:
        unread = "clip" if rule.release is None else "min_rows"
        noise = f"{section}.summaries.noise_multiplier is {rule.noise_multiplier:g}"
        yield f"{section}.summaries.{unread}", noise
    if not takes_steps:
        yield f"{section}.clip", stepless
    if not noise_on_steps:
        why = f"{section}.clip is null: no noise" if takes_steps else stepless
        yield f"{section}.noise_multiplier", why
    if not noise_on_steps and not noise_on_sums:
        for key in ("delta", "max_epsilon"):
            yield f"{section}.{key}", "there is no noise, so no epsilon is counted"
    if privacy.secure_sum == "off":
        for key in ("limit", "bits", "threshold"):
            yield f"{section}.{key}", f"{section}.secure_sum is 'off'"
