"""The hosts of a federation: each holds one worker and does chunks of any client.

They are Ray actors and no Ray Train workers: a round is a barrier every few milliseconds, and a
Train worker would have to ask a third process for each chunk. An actor is called directly, and one
that dies is started again and does its chunks once more, which changes nothing: they are pure.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import ray

from lamina.garbage import collect_seldom
from lamina.orchestration.cluster import Device
from lamina.orchestration.federated.chunks import Chunk, ItemResult
from lamina.orchestration.federated.worker import Worker

MakeWorker = Callable[..., Worker]
"""A new worker, of whether it is on a GPU and of what all workers share. Travels to the host."""
_IN_FLIGHT = 2
"""Chunks that a host is given at a time: the next is there when one is done."""
_MOST_RESTARTS = 100
"""So often a host may die in a run."""
_MOST_RETRIES = 3
"""So often a chunk may be under way at a host that dies."""


class Pool(Protocol):
    """Where chunks are done."""

    def publish(self, key: str, content: bytes) -> None:
        """Make something known to every worker."""
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """These are needed no more."""
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


class RayPool:
    """A worker on each of several hosts."""

    def __init__(
        self, make_worker: MakeWorker, devices: Sequence[Device], shared: Sequence[Any] = ()
    ) -> None:
        """`shared` are references to what every worker is made of."""
        # They go with every call, so that a host that was started again finds them.
        self._shared = tuple(shared)
        self._hosts = [
            _Host.options(  # type: ignore[attr-defined]
                num_cpus=each.threads,
                num_gpus=int(each.is_gpu),
                max_restarts=_MOST_RESTARTS,
                max_task_retries=_MOST_RETRIES,
            ).remote(make_worker, each.is_gpu, each.threads)
            for each in devices
        ]
        self._published: dict[str, Any] = {}

    def processes(self) -> list[int]:
        """The process of each host, as soon as it is ready."""
        found: list[int] = ray.get([host.process.remote(self._shared) for host in self._hosts])
        return found

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

    def close(self) -> None:
        """End the hosts."""
        for host in self._hosts:
            ray.kill(host)

    def _of(self, chunk: Chunk) -> Mapping[str, Any]:
        keys = [chunk.shared_model, chunk.summary, *chunk.states.values()]
        return {key: self._published[key] for key in keys if key is not None}

    def _spread(self, calls: Sequence[Callable[[Any], Any]]) -> Iterator[Any]:
        """The result of each call, in order, made on whichever host is free."""
        results: dict[int, Any] = {}
        waiting = deque(enumerate(calls))
        running: dict[Any, tuple[int, Any]] = {}
        free = deque(host for _ in range(_IN_FLIGHT) for host in self._hosts)

        def hand_out() -> None:
            while waiting and free:
                (place, make), host = waiting.popleft(), free.popleft()
                running[make(host)] = (place, host)

        hand_out()
        for wanted in range(len(calls)):
            while wanted not in results:
                (done, *_), _ = ray.wait(list(running), num_returns=1)
                place, host = running.pop(done)
                results[place] = ray.get(done)
                free.append(host)
                hand_out()
            yield results.pop(wanted)


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

    def process(self, shared: Sequence[Any]) -> int:
        """The process, once its worker is there."""
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
