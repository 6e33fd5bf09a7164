"""A Ray Tune scheduler that halves at task boundaries: all trials of a bracket meet, the best go
on."""

import json
from collections.abc import Collection, Sequence
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from lamina.evaluation.halving import COSTS, KNOWN_COSTS, Cost, Standing, standing_of, survivors
from lamina.orchestration.store.client import StoreClient
from lamina.registry import unknown

_NOTE = "task_halving"


class TaskHalving(TrialScheduler):
    """Synchronous successive halving (Jamieson and Talwalkar, 2016) whose resource is the task.

    A rung is a task boundary: after `grace_period` tasks, that times `reduction_factor`, and so on,
    each before the last task. A trial that reaches a rung is paused, and frees its host, until
    every trial of its bracket has reached it or ended; then the best 1 / `reduction_factor` go on
    and the others stop (`evaluation/halving.py` says which those are). Forgetting is undefined
    after one task and plastic trials lead early, hence a grace of two.

    What was decided, and on which numbers, is in the store, because Tune's own restore loses it: a
    sweep that is started again decides nothing twice. A trial that comes late to a rung that is
    decided goes on if it would have.
    """

    _supports_buffered_results = False

    def __init__(
        self,
        grace_period: int = 2,
        reduction_factor: int = 2,
        bracket_size: int | None = None,
        costs: Sequence[Cost] = COSTS,
        stratify: bool = False,
    ) -> None:
        """What a job may say.

        Args:
            grace_period: Tasks that every trial learns.
            reduction_factor: One in so many goes on.
            bracket_size: Trials that are compared with each other, in the order in which they come;
                None: all of the sweep. A searcher learns from one bracket for the next.
            costs: What is weighed against projected accuracy.
            stratify: Halve the trials of each strategy by themselves.

        Raises ValueError for values that make no sense.
        """
        super().__init__()
        if grace_period < 1:
            raise ValueError(f"grace_period: {grace_period} is not positive")
        if reduction_factor < 2:
            raise ValueError(f"reduction_factor: {reduction_factor} is below 2")
        if bracket_size is not None and bracket_size < 2:
            raise ValueError(f"bracket_size: {bracket_size} is below 2")
        for each in costs:
            if each not in KNOWN_COSTS:
                raise unknown("costs", each, KNOWN_COSTS)
        self._grace_period = grace_period
        self._factor = reduction_factor
        self._bracket_size = bracket_size
        self._costs = tuple(costs)
        self._stratify = stratify
        self._brackets: list[_Bracket] = []
        self._bracket_of: dict[str, _Bracket] = {}
        self._may_go: set[str] = set()
        """Tune's ids of paused trials that a rung let through."""

    def attach(
        self,
        store: StoreClient,
        num_trials: int,
        max_running: int,
        *,
        is_strict: bool,
        outdated: Collection[str] = (),
    ) -> None:
        """Before the Tuner starts: where decisions are kept, how many trials are to come, and how
        many run at a time; `is_strict`: on the hosts, too, as a job wants it; `outdated`: ids of
        earlier trials that learned from other data, and compete with nobody."""
        self._store = store
        self._is_strict = is_strict
        self._num_trials = num_trials
        self._max_running = max_running
        noted: list[dict[str, dict[str, _Entry]]] = json.loads(store.noted(_NOTE) or "[]")
        self._noted = [
            {
                task: {trial: entry for trial, entry in met.items() if trial not in outdated}
                for task, met in bracket.items()
            }
            for bracket in noted
        ]

    # What Tune asks

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        if trial.trial_id in self._bracket_of:
            return  # Its thin trial has died, and is started again.
        size = self._bracket_size or self._num_trials
        if not self._brackets or self._brackets[-1].num_added == size:
            number = len(self._brackets)
            while len(self._noted) <= number:
                self._noted.append({})
            expected = min(size, max(self._num_trials - number * size, 1))
            self._brackets.append(_Bracket(expected, self._noted[number]))
        self._brackets[-1].add(trial)
        self._bracket_of[trial.trial_id] = self._brackets[-1]

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        self._may_go.discard(trial.trial_id)
        task, num_tasks = result["task"], result["num_tasks"]
        if task >= num_tasks or not self._is_rung(task):
            return self.CONTINUE
        bracket = self._bracket_of[trial.trial_id]
        goes = self._decision(result["trial"], task)
        if goes is None:
            bracket.arrive(trial, task, self._standing(result["trial"], task, num_tasks))
            self._decide(tune_controller, bracket, task)
            goes = self._decision(result["trial"], task)
        if goes is None:
            return self.PAUSE
        bracket.passed[trial.trial_id] = task
        self._may_go.discard(trial.trial_id)
        return self.CONTINUE if goes else self.STOP

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self.on_trial_remove(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if not trial.should_recover():
            self.on_trial_remove(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """One that has ended is waited for no longer."""
        bracket = self._bracket_of[trial.trial_id]
        bracket.remove(trial)
        for task in sorted(set(bracket.waiting.values())):
            self._decide(tune_controller, bracket, task)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """A new trial, or one that a rung let through, as far as trials may run at a time."""
        trials = tune_controller.get_trials()
        for trial in trials:
            if trial.status == Trial.PENDING:
                return trial
        if tune_controller.search_alg.is_finished():
            # A searcher may find fewer trials than it was asked for.
            for bracket in self._brackets:
                bracket.expected = bracket.num_added
                for task in sorted(set(bracket.waiting.values())):
                    self._decide(tune_controller, bracket, task)
        if sum(trial.status == Trial.RUNNING for trial in trials) >= self._max_running:
            return None
        for trial in trials:
            if trial.status == Trial.PAUSED and trial.trial_id in self._may_go:
                return trial
        return None

    def debug_string(self) -> str:
        waiting = sum(len(bracket.waiting) for bracket in self._brackets)
        return f"Using TaskHalving: {len(self._brackets)} brackets, {waiting} trials at a rung"

    # Inside

    def _is_rung(self, task: int) -> bool:
        rung = self._grace_period
        while rung < task:
            rung *= self._factor
        return rung == task

    def _decision(self, trial: str, task: int) -> bool | None:
        """Whether a trial goes on from a rung; None while that is open."""
        for bracket in self._noted:
            if entry := bracket.get(str(task), {}).get(trial):
                goes: bool = entry["goes"]
                return goes
        return None

    def _standing(self, trial: str, task: int, num_tasks: int) -> Standing:
        reports = self._store.reports(trial)[:task]
        rows, metrics = [each["validation"] for each in reports], reports[-1]["metrics"]
        strategy, _, _ = trial.rpartition("-")
        return standing_of(trial, strategy, rows, metrics, num_tasks, self._costs)

    def _decide(self, tune_controller: Any, bracket: "_Bracket", task: int) -> None:
        """Halve, if every trial of the bracket has reached the rung, or passed it, or ended."""
        if not bracket.has_met(task):
            return
        before = bracket.entries.get(str(task), {})
        met = {
            **{name: _standing_of_entry(name, entry) for name, entry in before.items()},
            **bracket.standings.pop(task),
        }
        for stopped in self._store.held("stop"):
            met.pop(stopped, None)
        best = survivors(list(met.values()), self._factor, self._stratify)
        bracket.entries[str(task)] = {
            name: before.get(name) or _entry_of(standing, name in best)
            for name, standing in met.items()
        }
        self._store.note(_NOTE, json.dumps(self._noted))
        going = []
        for trial in bracket.leave(task):
            name = bracket.names[trial.trial_id]
            # One that a person has stopped ends by itself when it goes on.
            if self._decision(name, task) is not False:
                self._may_go.add(trial.trial_id)
                going.append(name)
            elif trial.status == Trial.PAUSED or trial.is_saving:
                tune_controller.stop_trial(trial)
        if not self._is_strict:
            self._store.advance(going, task * self._factor)


_Entry = dict[str, Any]
"""A standing and what was decided, as JSON."""


def _entry_of(standing: Standing, goes: bool) -> _Entry:
    return {
        "strategy": standing.strategy,
        "projected_accuracy": standing.projected_accuracy,
        "costs": list(standing.costs),
        "goes": goes,
    }


def _standing_of_entry(trial: str, entry: _Entry) -> Standing:
    accuracy, costs = entry["projected_accuracy"], tuple(entry["costs"])
    return Standing(trial, entry["strategy"], accuracy, costs)


class _Bracket:
    """Trials that are compared with each other."""

    def __init__(self, expected: int, entries: dict[str, dict[str, _Entry]]) -> None:
        self.expected = expected
        """How many trials there will be."""
        self.entries = entries
        """By rung and trial: what was decided."""
        self.num_added = 0
        self.names: dict[str, str] = {}
        """The store's ids of trials, by Tune's."""
        self.waiting: dict[str, int] = {}
        """At which rung a trial waits, by Tune's id."""
        self.standings: dict[int, dict[str, Standing]] = {}
        """How those stand that wait at a rung, by the store's id."""
        self.passed: dict[str, int] = {}
        """The last rung that a trial has left behind, by Tune's id."""
        self._left: dict[str, Trial] = {}
        """The trials that have not ended, by Tune's id."""

    def add(self, trial: Trial) -> None:
        self.num_added += 1
        self._left[trial.trial_id] = trial

    def remove(self, trial: Trial) -> None:
        self._left.pop(trial.trial_id, None)
        task = self.waiting.pop(trial.trial_id, None)
        if task is not None:
            self.standings[task].pop(self.names[trial.trial_id], None)

    def arrive(self, trial: Trial, task: int, standing: Standing) -> None:
        self.waiting[trial.trial_id] = task
        self.names[trial.trial_id] = standing.trial
        self.standings.setdefault(task, {})[standing.trial] = standing

    def has_met(self, task: int) -> bool:
        """Whether somebody waits at a rung, and nobody is still to come."""
        if task not in self.waiting.values() or self.num_added < self.expected:
            return False
        return all(self.waiting.get(each, self.passed.get(each, 0)) >= task for each in self._left)

    def leave(self, task: int) -> list[Trial]:
        """Nobody waits at the rung any more. Returns those that did."""
        gone = [each for each, rung in self.waiting.items() if rung == task]
        for each in gone:
            del self.waiting[each]
            self.passed[each] = task
        return [self._left[each] for each in gone]
