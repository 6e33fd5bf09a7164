"""The trials that a host has claimed: it trains them together, as a cohort, and sends the store the
report and the checkpoint of each task that one of them has learned."""

import traceback
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import ray

from lamina.bundles import write_bundle
from lamina.config import parse_job
from lamina.folders import BUNDLE
from lamina.orchestration.federated.learner import FederatedLearner
from lamina.orchestration.hosts.resident_backbones import ResidentBackbones
from lamina.orchestration.hosts.spec import HostSpec
from lamina.orchestration.store.records import Claim
from lamina.registry import InputError
from lamina.training.checkpoint import checkpoint_of, restore
from lamina.training.cohort import Cohort, Progress
from lamina.training.learner import Learner


class ClaimedTrials:
    """Claims trials and trains them. How many at a time are worth it is measured on the first."""

    def __init__(self, settings: HostSpec, backbones: ResidentBackbones) -> None:
        self._host = settings.name
        self._checkpoint_steps = settings.checkpoint_steps
        self._store = settings.store
        self._num_hosts = settings.num_hosts
        self._backbones = backbones
        self._incarnation = uuid4().hex
        self._cohort = Cohort(most_rows=1)
        self._size = 1
        """How many trials are trained at a time."""
        self._claims: dict[str, Claim] = {}
        self._learners: dict[str, Learner | FederatedLearner] = {}
        self._decisions: dict[ray.ObjectRef[bool], str] = {}
        """Calls of the store that are under way: whether to go on with a trial."""
        self._being_kept: dict[str, ray.ObjectRef[None]] = {}
        """Calls of the store under way that keep a trial within a task."""

    def train(self) -> None:
        """Claim and train until the sweep is over."""
        while self._claim():
            for progress in self._cohort.advance():
                self._send(progress)
            self._follow_decisions()

    def _claim(self) -> bool:
        """Claim trials while there is room. Returns whether there is anything to train."""
        while len(self._claims) < self._size and not self._is_risky():
            claim = self._store.claim(
                self._host, self._incarnation, list(self._claims), self._num_hosts
            )
            if claim is None:
                break
            self._begin(claim)
        return bool(self._claims)

    def _is_risky(self) -> bool:
        """Whether a trial here may be what took its host down: no other is trained beside it."""
        return any(claim.deaths > 0 for claim in self._claims.values())

    def _begin(self, claim: Claim) -> None:
        try:
            learner = self._backbones.learner(claim.mapping)
            found = self._store.checkpoint(claim.trial, self._host)
            if found is None:
                return
            if found:
                restore(learner, found)
            if isinstance(learner, Learner):
                learner.checkpoint_steps = self._checkpoint_steps
                learner.on_checkpoint = partial(self._keep_midway, claim.trial, learner)
            if not self._claims:
                self._size, self._cohort.most_rows = self._backbones.packing(claim.mapping)
        except Exception as error:
            self._fail(claim.trial, error)
            return
        self._claims[claim.trial] = claim
        self._learners[claim.trial] = learner
        self._cohort.add(claim.trial, learner)

    def _send(self, progress: Progress) -> None:
        """Send the store what a trial has learned, without waiting for its decision."""
        trial = progress.name
        if progress.error is not None:
            self._leave(trial)
            self._fail(trial, progress.error)
        elif progress.report is None:
            claim = self._claims[trial]
            folder, files = left_behind(self._learners[trial], claim.mapping, trial, claim.name)
            self._leave(trial)
            self._store.finish(trial, folder, files)
        else:
            pieces = checkpoint_of(self._learners[trial])
            decision = self._store.report(trial, self._host, asdict(progress.report), pieces)
            self._decisions[decision] = trial

    def _keep_midway(self, trial: str, learner: Learner) -> None:
        """Send the store where a trial stands within a task, once it has the one before."""
        if (before := self._being_kept.pop(trial, None)) is not None:
            ray.get(before)
        self._being_kept[trial] = self._store.keep_midway(
            trial, self._host, learner.next_task, checkpoint_of(learner)
        )

    def _follow_decisions(self) -> None:
        """Let trials go on, or leave them, as the store has decided; wait for a decision where no
        trial can go on without one."""
        if not self._decisions:
            return
        timeout = 0 if self._cohort.can_advance else None
        ready, _ = ray.wait(list(self._decisions), num_returns=1, timeout=timeout)
        for decision in ready:
            trial = self._decisions.pop(decision)
            if ray.get(decision):
                self._cohort.go_on(trial)
            else:
                self._leave(trial)

    def _leave(self, trial: str) -> None:
        self._cohort.remove(trial)
        del self._learners[trial], self._claims[trial]
        self._being_kept.pop(trial, None)

    def _fail(self, trial: str, error: BaseException) -> None:
        if isinstance(error, ray.exceptions.RayError):
            # Not the trial's fault: let Ray Train start this host again.
            raise error
        if isinstance(error, InputError):
            self._store.fail(trial, str(error))
        else:
            self._store.fail(trial, "".join(traceback.format_exception(error)))


def left_behind(
    learner: Learner | FederatedLearner, mapping: Mapping[str, Any], trial: str, name: str
) -> tuple[str, dict[str, bytes]]:
    """The files that a finished trial leaves: the folder's name, and its files by path. They are a
    bundle; or the global tensors of a federation whose clients answer with models of their own."""
    with TemporaryDirectory(prefix="lamina-bundle-") as scratch:
        if isinstance(learner, FederatedLearner):
            folder = learner.save(Path(scratch), name=name, trial=trial)
        else:
            folder = Path(scratch) / BUNDLE
            write_bundle(parse_job(mapping), learner, folder, name=name, trial=trial)
        return folder.name, {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
