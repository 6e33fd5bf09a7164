"""Stands between the Tuner and the store on the driver, where torch is at hand and configurations
can be read."""

from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter

from lamina.config import Job, SweepPlan, stage_id
from lamina.digests import LEARNED_FROM, digest_of, trial_id
from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.records import Configuration
from lamina.orchestration.sweep.search import POINT, trial_of
from lamina.orchestration.sweep.thin_trial import configuration, plain
from lamina.registry import InputError

_DIED = (
    "the process that Ray Tune has for this trial died again and again (out of memory?); the same "
    "command goes on with it"
)


class TuneCallback(tune.Callback):
    """Tells the store what Tune's configurations stand for and what its scheduler has decided."""

    def __init__(
        self,
        store: StoreClient,
        session: str,
        plan: SweepPlan,
        identified: Callable[[Job], Job],
        searcher: BasicVariantGenerator | ConcurrencyLimiter,
        max_concurrent: int,
    ) -> None:
        """What it needs.

        Args:
            session: Of the sweep.
            identified: Given a job, adds what it learns from. Raises InputError.
            searcher: The Tuner's, which brings new trials while fewer than `max_concurrent` are
                under way.
        """
        self._store = store
        self._session = session
        self._plan = plan
        self._identified = identified
        self._searcher = searcher
        self._max_concurrent = max_concurrent
        self._planned: dict[str, dict[str, dict[str, Any]]] = {}
        """What the plan says of each trial, by the id that it has if it is no fork, then by name:
        trials of the plan that learn the same from the same rows are one in the store."""
        self._learned_from: list[dict[str, str] | None] = []
        """The data that the trials of this sweep learn from."""
        self._refused: list[dict[str, Any]] = []
        self._names: dict[str, str] = {}
        """What the store calls each of Tune's trials before its first result, by Tune's id."""
        self._configs: dict[str, str] = {}
        """The digest of what each of Tune's trials is at the moment, by Tune's id."""
        self._reached: dict[str, int] = {}
        """How many tasks each has reported, by Tune's id."""
        self._paused: set[str] = set()
        """Tune's ids of trials that its scheduler has paused."""
        self._num_held = 0
        """Trials that a person has paused."""
        self._has_heard = True

    def hear(self) -> None:
        """A person has asked for something. From any thread."""
        self._has_heard = True

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Trials that are paused let others start: Tune itself would count them among those that
        are under way, and a rung that all must reach would never be reached."""
        if self._has_heard:
            self._has_heard = False
            self._num_held = len(self._store.held("pause"))
        self._searcher.max_concurrent = self._max_concurrent + len(self._paused) + self._num_held

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Free the hosts of the trials that the scheduler has paused."""
        for trial in trials:
            if trial.status != Trial.PAUSED:
                self._paused.discard(trial.trial_id)
            elif trial.trial_id not in self._paused:
                self._paused.add(trial.trial_id)
                self._store.pause(trial.last_result["trial"])

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Tell the store what the configuration stands for."""
        config = configuration(self._session, trial.config)
        if self._configs.setdefault(trial.trial_id, config) != config:
            # Population based training has made it another trial.
            self._configs[trial.trial_id] = config
            self._stop(trial)
        try:
            planned = trial_of(self._plan, trial.config)
            job = self._identified(planned.job)
        except InputError as error:
            self._refuse(trial.config, str(error))
            return
        self._store.describe(config, Configuration(planned.name, job.mapping, stage_id(job)))
        self._learned_from.append(job.learned_from)
        self._names[trial.trial_id] = trial_id(job.mapping)
        self._planned.setdefault(trial_id(job.mapping), {})[planned.name] = {
            "name": planned.name,
            "settings": planned.settings,
            "mapping": job.mapping,
        }

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        """A thin trial whose process dies is started again, and reports again what its trial has
        learned: once for each task, as one whose trial has failed would fail for ever."""
        if result["task"] > self._reached.get(trial.trial_id, 0):
            self._reached[trial.trial_id] = result["task"]
            trial.max_failures = trial.run_metadata.num_failures + 1

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Free the host of a trial that the scheduler has stopped. (A reused actor may be told of
        it much later.)"""
        self._stop(trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """One that has not failed by itself has lost its thin trial too often: it fails, too, as
        nobody has asked for it to be stopped."""
        if trial.trial_id not in self._configs:
            self._refuse(trial.config, _DIED)
            return
        result = trial.last_result or {}
        is_done = result.get("task", 0) == result.get("num_tasks")
        if (name := result.get("trial", self._names.get(trial.trial_id))) and not is_done:
            self._store.fail(name, _DIED)

    def rows(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The trials of this sweep out of all that the store knows, each with its settings. What
        learned from other data, or from another model, is none of them."""
        own = []
        for row in results:
            if row["settings"] is None:
                planned = self._planned.get(trial_id(row["mapping"]), {})
                own += [{**row, **each} for each in planned.values()]
            elif row["mapping"].get(LEARNED_FROM) in self._learned_from:
                own.append(row)
        return [*own, *self._refused]

    def _stop(self, trial: Trial) -> None:
        result = trial.last_result or {}
        if "trial" in result and result["task"] < result["num_tasks"]:
            self._store.stop(result["trial"])

    def _refuse(self, config: dict[str, Any], error: str) -> None:
        self._store.describe(configuration(self._session, config), Configuration(error=error))
        given = plain(config)
        point = self._plan.points[int(given[POINT])].trial
        self._refused.append(
            {
                "trial": f"{point.name}-{digest_of(given)}",
                "name": point.name,
                "settings": {key: value for key, value in given.items() if key != POINT},
                "mapping": point.job.mapping,
                "status": "failed",
                "error": error,
                "reports": [],
            }
        )
