"""The trials of a host that is several workers: they train one trial at a time, each on a share of
every batch."""

import traceback
from collections.abc import Callable
from dataclasses import asdict
from typing import TypeVar
from uuid import uuid4

import ray
import torch.distributed

from lamina.orchestration.hosts.claimed_trials import left_behind
from lamina.orchestration.hosts.resident_backbones import ResidentBackbones
from lamina.orchestration.hosts.spec import HostSpec
from lamina.orchestration.store.records import Claim
from lamina.registry import InputError
from lamina.training.checkpoint import checkpoint_of, restore
from lamina.training.report import TaskReport
from lamina.training.workers import ProcessGroup

T = TypeVar("T")


class TrialsOfSeveral:
    """What `ClaimedTrials` is for one worker. The first of them talks to the store, and tells the
    others what it has said. All hold the same model after every step.

    A worker that raises ends them all, as the others wait for it: Ray Train starts them again.
    """

    def __init__(self, settings: HostSpec, backbones: ResidentBackbones) -> None:
        self._host = settings.name
        self._store = settings.store
        self._num_hosts = settings.num_hosts
        self._backbones = backbones
        self._incarnation = uuid4().hex
        self._workers = ProcessGroup()

    def train(self) -> None:
        """Claim and train until the sweep is over."""
        while (claim := self._agreed(self._claim)) is not None:
            try:
                self._train(claim)
            except ray.exceptions.RayError:
                raise
            except Exception as error:
                is_input = isinstance(error, InputError)
                said = str(error) if is_input else "".join(traceback.format_exception(error))
                self._store.fail(claim.trial, said)
                raise

    def _train(self, claim: Claim) -> None:
        learner = self._backbones.learner(claim.mapping, self._workers)
        found = self._store.checkpoint(claim.trial, self._host)
        if found is None:
            return
        if found:
            restore(learner, found)
        for report in learner.learn():

            def send(report: TaskReport = report) -> bool:
                sent = self._store.report(
                    claim.trial, self._host, asdict(report), checkpoint_of(learner)
                )
                goes_on: bool = ray.get(sent)
                return goes_on

            if not self._agreed(send):
                return
        if self._workers.rank == 0:
            folder, files = left_behind(learner, claim.mapping, claim.trial, claim.name)
            self._store.finish(claim.trial, folder, files)

    def _claim(self) -> Claim | None:
        return self._store.claim(self._host, self._incarnation, [], self._num_hosts)

    def _agreed(self, ask: Callable[[], T]) -> T:
        """The result of `ask` on the first worker, sent to all workers."""
        said = [ask()] if self._workers.rank == 0 else [None]
        torch.distributed.broadcast_object_list(said, src=0)
        (value,) = said
        return value  # type: ignore[return-value]
