"""The store's client, as all other processes see it: each call returns when there is something to
return."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import GetTimeoutError

from lamina.orchestration.store.control import Action
from lamina.orchestration.store.parcels import packed, unpacked
from lamina.orchestration.store.records import Boundary, Claim, Configuration, Expected, Report
from lamina.registry import InputError
from lamina.tracking.base import Status
from lamina.tracking.data import DataDocument

_BEHIND_SECONDS = 3.0
"""Where the end of a sweep waits longer than this for its tracker, that is said."""


class SilentStoreError(InputError):
    """The store does not answer."""

    exit_code = 1


@dataclass(frozen=True)
class StoreClient:
    """A handle on a running `StoreActor`, whose methods have the docstrings. It travels between
    processes.

    Each call is made again by Ray when the actor dies under it. That it does not wait for ever for
    one that is stopped is for the sweep to see to (`sweep/store_watch.py`); whoever is no part of
    the sweep has a `deadline`.
    """

    actor: Any
    deadline: float | None = None
    """Seconds that a call may take before it raises SilentStoreError; None: any number."""

    def submit(self, config: str, fork: Boundary | None) -> str:
        return self._call("submit", config, fork)

    def wait(self, trial: str, task: int) -> Report:
        return self._call("wait", trial, task)

    def stop(self, trial: str) -> None:
        self._call("stop", trial)

    def pause(self, trial: str) -> None:
        self._call("pause", trial)

    def arrive(self, host: str, where: str, process: int) -> None:
        self._call("arrive", host, where, process, uuid4().hex)

    def beat(self, host: str) -> None:
        self._call("beat", host)

    def leave(self, host: str) -> None:
        self._call("leave", host)

    def miss(self, host: str, needs: str) -> None:
        self._call("miss", host, needs)

    def claim(
        self, host: str, incarnation: str, held: Sequence[str], num_hosts: int
    ) -> Claim | None:
        return self._call("claim", host, incarnation, held, num_hosts)

    def expect(self, trials: Sequence[Expected], num_tasks: int | None) -> None:
        self._call("expect", trials, num_tasks)

    def advance(self, trials: Sequence[str], num_tasks: int) -> None:
        self._call("advance", trials, num_tasks)

    def checkpoint(self, trial: str, host: str) -> dict[str, bytes] | None:
        found = self._call("checkpoint", trial, host)
        if found is None:
            return None
        return {name: bytes(each) for name, each in unpacked(found).items()}

    def report(
        self, trial: str, host: str, report: Report, pieces: Mapping[str, bytes]
    ) -> "ray.ObjectRef[bool]":
        """Does not wait: Ray's reference is to whether the host is to go on."""
        reference: ray.ObjectRef[bool] = self.actor.report.remote(
            trial, host, report, packed(pieces)
        )
        return reference

    def keep_midway(
        self, trial: str, host: str, task: int, pieces: Mapping[str, bytes]
    ) -> "ray.ObjectRef[None]":
        """Does not wait."""
        reference: ray.ObjectRef[None] = self.actor.keep_midway.remote(
            trial, host, task, packed(pieces)
        )
        return reference

    def finish(self, trial: str, folder: str, files: Mapping[str, bytes]) -> None:
        self._call("finish", trial, folder, packed(files))

    def fail(self, trial: str, error: str) -> None:
        self._call("fail", trial, error)

    def offer_stream(self, digest: str, reference: list[Any]) -> None:
        self._call("offer_stream", digest, reference)

    def stream(self, digest: str) -> list[Any]:
        return self._call("stream", digest)

    def refusal(self) -> str | None:
        return self._call("refusal")

    def describe(self, config: str, job: Configuration) -> None:
        self._call("describe", config, job)

    def start_sweep(
        self, name: str, params: Mapping[str, Any], data: Sequence[DataDocument] = ()
    ) -> int:
        return self._call("start_sweep", name, params, data)

    def count_unfinished(self, mappings: Sequence[Mapping[str, Any]]) -> int:
        return self._call("count_unfinished", mappings)

    def lose(self, host: str, error: str, last: bool) -> None:
        self._call("lose", host, error, last)

    def progress(self, host: str) -> int:
        return self._call("progress", host)

    def events(self, after: int) -> list[tuple[int, dict[str, Any]]]:
        return self._call("events", after)

    def results(self) -> list[dict[str, Any]]:
        return self._call("results")

    def reports(self, trial: str) -> list[Report]:
        return self._call("reports", trial)

    def note(self, key: str, value: str) -> None:
        self._call("note", key, value)

    def noted(self, key: str) -> str | None:
        return self._call("noted", key)

    def act(self, action: Action, trial: str) -> str | None:
        return self._call("act", action, trial, uuid4().hex)

    def fork(
        self, parent: str, name: str, mapping: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> tuple[str | None, str | None]:
        return self._call("fork", parent, name, mapping, settings, uuid4().hex)

    def held(self, how: str) -> list[str]:
        return self._call("held", how)

    def dismiss(self) -> list[str]:
        return self._call("dismiss")

    def close(self, status: Status, on_behind: Callable[[int], None]) -> str | None:
        """`on_behind` is told how much is still to be written where that takes a while."""
        closed = self.actor.close.remote(status)
        ready, _ = ray.wait([closed], timeout=_BEHIND_SECONDS)
        if not ready:
            on_behind(self._call("behind"))
        missing: str | None = ray.get(closed)
        return missing

    def ask(self) -> "ray.ObjectRef[int]":
        """Does not wait: Ray's reference is to the number of the store's process."""
        reference: ray.ObjectRef[int] = self.actor.answer.remote()
        return reference

    def start_again(self) -> None:
        """Kill the actor, also one that is stopped. Ray starts it again."""
        ray.kill(self.actor, no_restart=False)

    def kill(self) -> None:
        """End the actor for good."""
        ray.kill(self.actor)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self.actor, method).remote(*arguments), timeout=self.deadline)
        except GetTimeoutError:
            raise SilentStoreError(
                f"RUN: its store does not answer for {self.deadline:.0f} s; the sweep starts one "
                "that is stopped again by itself (allowed: the same command, in a few minutes)"
            ) from None
