"""The hosts of a federation: each holds one worker and does chunks of any client.

They are Ray actors and no Ray Train workers: a round is a barrier every few milliseconds, and a
Train worker would have to ask a third process for each chunk. An actor is called directly. What a
host had when it died, or when it fell silent, others do once more, which changes nothing: chunks
are pure. Ray starts a host again, on another machine where its own is gone, and it takes part from
then on; so does one whose machine joins late.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError

from lamina.garbage import collect_seldom
from lamina.orchestration.cluster import Device
from lamina.orchestration.federated.chunks import Chunk, ItemResult
from lamina.orchestration.federated.worker import Worker

MakeWorker = Callable[..., Worker]
"""A new worker, of whether it is on a GPU and of what all workers share. Travels to the host."""
_IN_FLIGHT = 2
"""Chunks that a host is given at a time: the next is there when one is done."""
_MOST_RESTARTS = 100
"""How often a host may die in a run."""
_MOST_DEATHS = 3
"""How often a host may die during the same call."""
_LOOK_SECONDS = 1.0
"""How often the pool looks for silent hosts while no result comes."""
_SILENT_SECONDS = 30.0
"""A call that takes longer than this, and than `_SLOWER` times the longest until now, is also given
to an idle host: the first host may be stopped or cut off."""
_SLOWER = 3.0
_MISSING_SECONDS = 10.0
"""After so long without any host it is said that there is none."""


class Pool(Protocol):
    """Where chunks are done."""

    def publish(self, key: str, content: bytes) -> None:
        """Make something known to every worker."""
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """Forget published values that are not needed any more."""
        ...

    def do(self, chunks: Sequence[Chunk]) -> Iterable[list[ItemResult]]:
        """The answers to each chunk, in order, each as soon as it is there: whoever reads them does
        so while others are still worked on."""
        ...

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """What a method of a worker gives for each of the arguments, in order."""
        ...


class LocalPool:
    """One worker, in this process."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._known: dict[str, bytes] = {}

    def publish(self, key: str, content: bytes) -> None:
        self._known[key] = content

    def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._known.pop(key, None)

    def do(self, chunks: Sequence[Chunk]) -> Iterable[list[ItemResult]]:
        return [self._worker.do(chunk, self._known.__getitem__) for chunk in chunks]

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return [getattr(self._worker, method)(*each) for each in arguments]


@dataclass
class _Member:
    """A host, and what it has to do."""

    name: str
    actor: Any
    is_here: bool = False
    """Whether it has been heard of since it was started, or started again."""
    calls: set[Any] = field(default_factory=set)
    """Ray's references to what it has not answered."""


@dataclass(frozen=True)
class _Call:
    """A call that is under way at a host."""

    host: _Member
    batch: int
    """The number of the batch of calls that are made together."""
    place: int
    """Its place among them."""
    begun: float


class RayPool:
    """A worker on each of several hosts."""

    def __init__(
        self,
        make_worker: MakeWorker,
        devices: Sequence[Device],
        shared: Sequence[Any],
        on_event: Callable[[Mapping[str, Any]], None],
    ) -> None:
        """`shared` are references to what every worker is made of. `on_event` is told `host_ready`
        (`host`, `process`), `host_lost` (`host`, `error`) and `hosts_missing` (`needs`)."""
        # They go with every call, so that a host that was started again finds them.
        self._shared = tuple(shared)
        self._tell = on_event
        self._needs = _needs(devices)
        self._hosts = [
            _Member(
                f"host-{number}",
                _Host.options(  # type: ignore[attr-defined]
                    num_cpus=each.threads, num_gpus=int(each.is_gpu), max_restarts=_MOST_RESTARTS
                ).remote(make_worker, each.is_gpu, each.threads),
            )
            for number, each in enumerate(devices)
        ]
        self._published: dict[str, Any] = {}
        self._batch = 0
        self._calls: dict[Any, _Call] = {}
        """The calls under way, also those of an earlier batch that another host has answered
        since."""
        self._coming: dict[Any, _Member] = {}
        """Hosts that are being started, by the reference to their first word."""
        self._longest = 0.0
        """Seconds of the longest call."""
        self._alone_since: float | None = time.monotonic()
        """Since when there has been no host; None: there is one, or it was said."""
        for host in self._hosts:
            self._call_up(host)

    def publish(self, key: str, content: bytes) -> None:
        # As an array it is not copied on its way to a host.
        self._published[key] = ray.put(np.frombuffer(content, dtype=np.uint8))

    def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._published.pop(key, None)

    def do(self, chunks: Sequence[Chunk]) -> Iterable[list[ItemResult]]:
        return self._spread(
            [
                partial(_do, chunk=chunk, published=self._of(chunk), shared=self._shared)
                for chunk in chunks
            ]
        )

    def call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        calls = [
            partial(_call, method=method, arguments=each, shared=self._shared) for each in arguments
        ]
        return list(self._spread(calls))

    def gather(self) -> None:
        """Return when every host is ready: who measures rounds begins them with all."""
        while self._coming:
            self._hear()

    def close(self) -> None:
        """End the hosts."""
        for host in self._hosts:
            ray.kill(host.actor)

    def _of(self, chunk: Chunk) -> Mapping[str, Any]:
        keys = [chunk.shared_model, chunk.summary, *chunk.states.values()]
        return {key: self._published[key] for key in keys if key is not None}

    def _spread(self, calls: Sequence[Callable[[Any], Any]]) -> Iterator[Any]:
        """The result of each call, in order, made on whichever host is free."""
        self._batch += 1
        results: dict[int, Any] = {}
        waiting = deque(range(len(calls)))
        deaths = [0] * len(calls)
        for wanted in range(len(calls)):
            while wanted not in results:
                for host in self._free():
                    if waiting:
                        self._begin(host, waiting.popleft(), calls)
                if not waiting:
                    self._begin_again_what_is_late(calls, results)
                for call, result in self._hear():
                    if call.batch != self._batch or call.place in results:
                        continue
                    if not isinstance(result, RayError):
                        results[call.place] = result
                        continue
                    deaths[call.place] += 1
                    if deaths[call.place] >= _MOST_DEATHS:
                        raise result
                    if call.place not in waiting:
                        waiting.appendleft(call.place)
            yield results.pop(wanted)
            # What is yielded is not asked for again.
            results[wanted] = None

    def _free(self) -> Iterator[_Member]:
        """Hosts that can be given something: first each one call, then each another."""
        for most in range(1, _IN_FLIGHT + 1):
            yield from (each for each in self._hosts if each.is_here and len(each.calls) < most)

    def _begin(self, host: _Member, place: int, calls: Sequence[Callable[[Any], Any]]) -> None:
        reference = calls[place](host.actor)
        host.calls.add(reference)
        self._calls[reference] = _Call(host, self._batch, place, time.monotonic())

    def _begin_again_what_is_late(
        self, calls: Sequence[Callable[[Any], Any]], results: Mapping[int, Any]
    ) -> None:
        idle = [each for each in self._hosts if each.is_here and not each.calls]
        late = time.monotonic() - max(_SILENT_SECONDS, _SLOWER * self._longest)
        open_calls = [each for each in self._calls.values() if each.batch == self._batch]
        places = [each.place for each in open_calls]
        for call in open_calls:
            if not idle:
                return
            is_open = call.place not in results and places.count(call.place) == 1
            if is_open and call.begun < late:
                self._begin(idle.pop(), call.place, calls)
                places.append(call.place)

    def _hear(self) -> list[tuple[_Call, Any]]:
        """Wait a little for calls to end and for hosts to come. Returns the calls that have ended,
        each with its result, or with Ray's error where its host is gone.

        Raises what a worker raises, and Ray's error when the last host is given up.
        """
        pending = [*self._calls, *self._coming]
        ready, _ = ray.wait(pending, num_returns=1, timeout=_LOOK_SECONDS)
        ended = []
        for reference in ready:
            if reference in self._coming:
                self._welcome(self._coming.pop(reference), reference)
                continue
            call = self._calls.pop(reference)
            call.host.calls.discard(reference)
            try:
                ended.append((call, ray.get(reference)))
                self._longest = max(self._longest, time.monotonic() - call.begun)
            except (RayActorError, ObjectLostError) as error:
                self._lose(call.host, error)
                ended.append((call, error))
        self._say_if_there_is_none()
        return ended

    def _call_up(self, host: _Member) -> None:
        host.is_here = False
        self._coming[host.actor.process.remote(self._shared)] = host

    def _welcome(self, host: _Member, word: Any) -> None:
        try:
            process = ray.get(word)
        except RayActorError:
            # It has died for the last time.
            self._hosts.remove(host)
            if not self._hosts:
                raise
            return
        host.is_here = True
        self._alone_since = None
        self._tell({"event": "host_ready", "host": host.name, "process": process})

    def _lose(self, host: _Member, error: RayError) -> None:
        if not host.is_here:
            return
        reason = str(error).strip().splitlines()[0]
        self._tell({"event": "host_lost", "host": host.name, "error": reason})
        self._call_up(host)
        if not any(each.is_here for each in self._hosts):
            self._alone_since = time.monotonic()

    def _say_if_there_is_none(self) -> None:
        since = self._alone_since
        if since is not None and time.monotonic() - since > _MISSING_SECONDS:
            self._alone_since = None
            self._tell({"event": "hosts_missing", "needs": self._needs})


def _needs(devices: Sequence[Device]) -> str:
    """The resources that a machine needs for one of the hosts, in words."""
    threads = min((each.threads for each in devices), default=1)
    cores = "1 free CPU core" if threads == 1 else f"{threads} free CPU cores"
    gpu = " and a free GPU" if any(each.is_gpu for each in devices) else ""
    return f"a machine with {cores}{gpu}"


def _do(host: Any, chunk: Chunk, published: Mapping[str, Any], shared: Sequence[Any]) -> Any:
    return host.do.remote(chunk, published, shared)


def _call(host: Any, method: str, arguments: tuple[Any, ...], shared: Sequence[Any]) -> Any:
    return host.call.remote(method, arguments, shared)


@ray.remote
class _Host:
    """A worker in a process of its own."""

    def __init__(self, make_worker: MakeWorker, is_gpu: bool, threads: int) -> None:
        collect_seldom()
        import torch

        torch.set_num_threads(threads)
        self._make_worker = make_worker
        self._is_gpu = is_gpu
        self._worker: Any = None

    @ray.method(max_task_retries=-1)
    def process(self, shared: Sequence[Any]) -> int:
        """The process, once its worker is there; however often it is started until then."""
        import os

        self._made(shared)
        return os.getpid()

    def do(
        self, chunk: Chunk, published: Mapping[str, Any], shared: Sequence[Any]
    ) -> list[ItemResult]:
        def fetch(key: str) -> bytes:
            content: bytes = ray.get(published[key]).tobytes()
            return content

        answers: list[ItemResult] = self._made(shared).do(chunk, fetch)
        return answers

    def call(self, method: str, arguments: tuple[Any, ...], shared: Sequence[Any]) -> Any:
        return getattr(self._made(shared), method)(*arguments)

    def _made(self, shared: Sequence[Any]) -> Any:
        if self._worker is None:
            self._worker = self._make_worker(self._is_gpu, *ray.get(list(shared)))
        return self._worker
