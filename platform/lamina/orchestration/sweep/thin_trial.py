"""The thin trial: what Ray Tune sees of a trial. It submits a configuration, and relays one report
per task. No torch here."""

from collections.abc import Mapping
from typing import Any

from ray import tune

from lamina.digests import digest_of
from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.shared_store import Boundary


def configuration(session: str, config: dict[str, Any]) -> str:
    """The name of a Tune configuration in the store. Its point means something in one sweep only,
    so that another sweep in the same folder never takes over what an earlier one said of it."""
    return digest_of([session, plain(config)])


def plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with numbers of NumPy, which some searchers give, as Python's own."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in config.items()}


class ThinTrial(tune.Trainable):
    """One Tune trial; the actor around it is reused for the next.

    Every result has, of the task's report, the metric that the sweep goes by (Tune keeps 2 KiB of
    each for each trial), `trial` (the store's name for it), and `task`: how many tasks are learned,
    from 1 on, so that a scheduler's `grace_period: 2` means two tasks. Nothing is submitted before
    the first step: only then is it known whether a scheduler (population based training, say) makes
    this a fork of another trial. That a trial is paused or stopped the driver tells the store, at
    once (an actor may be told of it much later).
    """

    _store: StoreClient
    _session: str
    _metric: str | None
    _config: str
    """The name of the configuration that Tune gave: the driver tells the store what it means."""
    _fork: Boundary | None
    _trial: str | None
    """The store's name for it, once submitted."""
    _task: int
    """The next one to be reported."""

    # tune.with_parameters adds the keywords.
    def setup(  # type: ignore[override]
        self, config: dict[str, Any], store: StoreClient, session: str, metric: str | None
    ) -> None:
        self._store = store
        self._session = session
        self._metric = metric
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._trial is None:
            self._trial = self._store.submit(self._config, self._fork)
        report = self._store.wait(self._trial, self._task)
        if not report.get("stopped"):
            self._task += 1
        progress = {"task": self._task, "num_tasks": report["num_tasks"], "trial": self._trial}
        metrics = {key: each for key, each in report["metrics"].items() if key == self._metric}
        return {**metrics, **progress, "done": report["done"]}

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Where this trial stands. The weights are in the store."""
        return {"trial": self._trial, "task": self._task, "config": self._config}

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Go on from a boundary: this trial's own after a pause, or another one's, which makes this
        a fork."""
        assert checkpoint is not None, "save_checkpoint always says something"
        self._task = checkpoint["task"]
        if self._task > 0 and checkpoint["config"] == self._config:
            self._trial = checkpoint["trial"]
        elif self._task > 0:
            self._fork = Boundary(checkpoint["trial"], self._task - 1)

    def _begin(self, config: dict[str, Any]) -> None:
        self._config = configuration(self._session, config)
        self._fork = None
        self._trial = None
        self._task = 0
