"""What a host does with its time: it trains a cohort of claimed trials, and hands over what each
has learned at every task boundary."""

import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import ray

from lamina.orchestration.federated.learner import FederatedLearner
from lamina.orchestration.hosts.resident_backbones import ResidentBackbones
from lamina.orchestration.hosts.spec import HostSpec
from lamina.orchestration.store.client import Answer
from lamina.orchestration.store.shared_store import Claim
from lamina.registry import InputError
from lamina.training.checkpoint import pack, unpack
from lamina.training.cohort import Boundary, Cohort
from lamina.training.learner import Learner


class ClaimedTrials:
    """The trials of one host. As many at a time as pay, which the first of them shows."""

    def __init__(self, settings: HostSpec, backbones: ResidentBackbones) -> None:
        self._host = settings.name
        self._store = settings.store
        self._num_hosts = settings.num_hosts
        self._backbones = backbones
        self._incarnation = uuid4().hex
        self._cohort = Cohort(most_rows=1)
        self._size = 1
        self._claims: dict[str, Claim] = {}
        self._learners: dict[str, Learner | FederatedLearner] = {}
        self._answers: dict[Answer, str] = {}
        """Of the store, on whether to go on, by trial."""

    def work(self) -> None:
        """Claim and train until the sweep is over."""
        while self._join():
            for boundary in self._cohort.advance():
                self._hand_over(boundary)
            self._hear()

    def _join(self) -> bool:
        """Claim trials while there is room. Returns whether there is anything to train."""
        while len(self._claims) < self._size and not self._is_wary():
            claim = self._store.claim(
                self._host, self._incarnation, list(self._claims), self._num_hosts
            )
            if claim is None:
                break
            self._begin(claim)
        return bool(self._claims)

    def _is_wary(self) -> bool:
        """Whether a trial here may be what took the host down: no other is to go with it."""
        return any(claim.deaths > 0 for claim in self._claims.values())

    def _begin(self, claim: Claim) -> None:
        try:
            learner = self._backbones.learner(claim.mapping)
            if claim.start is not None:
                state: dict[str, Any] = {}
                for content in self._store.parts(claim.start).values():
                    state.update(unpack(content))
                learner.load_state_dict(state)
            if not self._claims:
                self._size, self._cohort.most_rows = self._backbones.packing(claim.mapping)
        except Exception as error:
            self._fail(claim.trial, error)
            return
        self._claims[claim.trial] = claim
        self._learners[claim.trial] = learner
        self._cohort.add(claim.trial, learner)

    def _hand_over(self, boundary: Boundary) -> None:
        """Give the store what is learned; what it answers is heard later."""
        trial = boundary.name
        if boundary.error is not None:
            self._leave(trial)
            self._fail(trial, boundary.error)
        elif boundary.report is None:
            files = adapter_files(self._learners[trial])
            self._leave(trial)
            self._store.finish(trial, files)
        else:
            state = self._learners[trial].state_dict()
            parts = {name: pack(part) for name, part in split(state).items()}
            report = asdict(boundary.report)
            answer = self._store.report(trial, self._host, report, parts)
            self._answers[answer] = trial

    def _hear(self) -> None:
        """Let trials go on, or leave them, as the store has answered; wait for an answer where
        nobody can advance without."""
        if not self._answers:
            return
        timeout = 0 if self._cohort.can_advance else None
        heard, _ = ray.wait(list(self._answers), num_returns=1, timeout=timeout)
        for answer in heard:
            trial = self._answers.pop(answer)
            if ray.get(answer):
                self._cohort.go_on(trial)
            else:
                self._leave(trial)

    def _leave(self, trial: str) -> None:
        self._cohort.remove(trial)
        del self._learners[trial], self._claims[trial]

    def _fail(self, trial: str, error: BaseException) -> None:
        if isinstance(error, ray.exceptions.RayError):
            # Not the trial's fault: let Ray Train start this host again.
            raise error
        if isinstance(error, InputError):
            self._store.fail(trial, str(error))
        else:
            self._store.fail(trial, "".join(traceback.format_exception(error)))


def adapter_files(learner: Learner | FederatedLearner) -> dict[str, bytes]:
    """What `Learner.save_adapters` writes, by path."""
    with TemporaryDirectory(prefix="lamina-adapters-") as name:
        folder = Path(name)
        learner.save_adapters(folder)
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


def split(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts that the store keeps one by one: each nested entry of a learner's state, and the
    rest as one."""
    nested = {key: {key: value} for key, value in state.items() if isinstance(value, dict | list)}
    rest = {key: value for key, value in state.items() if key not in nested}
    return {**nested, **({"rest": rest} if rest else {})}
