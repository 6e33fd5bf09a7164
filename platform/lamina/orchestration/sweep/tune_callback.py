"""Stands between the Tuner and the store on the driver, where torch is at hand and configurations
can be read."""

from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter

from lamina.config import ConfigError, SweepPlan, stage_id
from lamina.digests import digest_of
from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.identity import trial_id
from lamina.orchestration.sweep.search import POINT, trial_of


class TuneCallback(tune.Callback):
    """Tells the store what Tune's configurations stand for and what its scheduler has decided."""

    def __init__(
        self,
        store: StoreClient,
        plan: SweepPlan,
        searcher: BasicVariantGenerator | ConcurrencyLimiter,
        max_concurrent: int,
    ) -> None:
        """`searcher` is the Tuner's, which brings new trials while fewer than `max_concurrent` are
        under way."""
        self._store = store
        self._plan = plan
        self._searcher = searcher
        self._max_concurrent = max_concurrent
        self._planned: dict[str, dict[str, Any]] = {}
        """What the plan says of each trial, by the id that it has if it is no fork."""
        self._refused: list[dict[str, Any]] = []
        self._configs: dict[str, str] = {}
        """The digest of what each of Tune's trials is at the moment, by Tune's id."""
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
            self._num_held = self._store.num_paused_by_hand()
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
        config = digest_of(trial.config)
        if self._configs.setdefault(trial.trial_id, config) != config:
            # Population based training has made it another trial.
            self._configs[trial.trial_id] = config
            self._stop(trial)
        try:
            planned = trial_of(self._plan, trial.config)
        except ConfigError as error:
            self._refuse(trial.config, str(error))
            return
        job = planned.job
        self._store.describe(config, planned.name, job.mapping, stage_id(job))
        self._planned[trial_id(job.mapping)] = {
            "name": planned.name,
            "settings": planned.settings,
            "mapping": job.mapping,
        }

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Free the host of a trial that the scheduler has stopped. (A reused actor may be told of
        it much later.)"""
        self._stop(trial)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Free the host of a trial whose thin actor has died."""
        self._stop(trial)

    def rows(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The trials of this sweep out of all that the store knows, each with its settings."""
        own = []
        for row in results:
            planned = self._planned.get(trial_id(row["mapping"]))
            if row["settings"] is not None:
                own.append(row)
            elif planned is not None:
                own.append({**row, **planned})
        return [*own, *self._refused]

    def _stop(self, trial: Trial) -> None:
        result = trial.last_result or {}
        if "trial" in result and result["task"] < result["num_tasks"]:
            self._store.stop(result["trial"])

    def _refuse(self, config: dict[str, Any], error: str) -> None:
        self._store.refuse(digest_of(config), error)
        point = self._plan.points[config[POINT]].trial
        self._refused.append(
            {
                "trial": f"{point.name}-{digest_of(config)}",
                "name": point.name,
                "settings": {key: value for key, value in config.items() if key != POINT},
                "mapping": point.job.mapping,
                "status": "failed",
                "error": error,
                "reports": [],
            }
        )
