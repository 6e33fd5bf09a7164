"""Questions that wait for a replica, and are sent on together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from lamina.orchestration.serving.question import Question, RefusedError
from lamina.orchestration.serving.resident_bundles import Answer

Send = Callable[[Sequence[Question]], Awaitable[list[Answer]]]
"""Has some replica answer questions, in their order."""


class Batcher:
    """Sends what waits as soon as a replica is free for it. So no question waits for company: those
    that come while all replicas are busy are the next batch, and the busier they are, the larger
    it is.

    Ray Serve's `@serve.batch` gathers within a replica, when each request has crossed to it by
    itself already, counts requests and not their rows, and waits a fixed time for more to come.
    """

    def __init__(
        self, send: Send, *, batch_rows: int, most_under_way: int, max_waiting_rows: int
    ) -> None:
        """`batch_rows`: of a batch at most (a question of more is sent alone). `most_under_way`:
        batches that are with replicas at a time."""
        self._send = send
        self._batch_rows = batch_rows
        self._most_under_way = most_under_way
        self._max_waiting_rows = max_waiting_rows
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._is_called = False
        self.waiting_rows = 0
        """Inputs that no replica has been sent yet."""

    async def ask(self, question: Question) -> Answer:
        """The answer of a replica. Raises RefusedError where too many requests wait already."""
        waiting = self.waiting_rows
        if waiting and waiting + len(question.values) > self._max_waiting_rows:
            raise RefusedError(
                503,
                "inputs",
                f"inputs: {waiting:,} wait already, and these {len(question.values)} are too many "
                f"(allowed: {self._max_waiting_rows:,}; try again)",
            )
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((question, future))
        self.waiting_rows += len(question.values)
        if not self._is_called:
            # Later, so that what has come in at the same time goes together.
            self._is_called = True
            loop.call_soon(self._send_on)
        return await future

    def _send_on(self) -> None:
        self._is_called = False
        while self._waiting and len(self._under_way) < self._most_under_way:
            if batch := self._next():
                task = asyncio.create_task(self._answered(batch))
                self._under_way.add(task)
                task.add_done_callback(self._has_ended)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._send_on()

    def _next(self) -> list[tuple[Question, asyncio.Future[Answer]]]:
        """The next batch: the requests that wait longest, without those whose caller has gone."""
        batch: list[tuple[Question, asyncio.Future[Answer]]] = []
        rows = 0
        while self._waiting:
            question, future = self._waiting[0]
            number = 0 if future.done() else len(question.values)
            if batch and rows + number > self._batch_rows:
                break
            self._waiting.popleft()
            self.waiting_rows -= len(question.values)
            if number:
                batch.append((question, future))
                rows += number
        return batch

    async def _answered(self, batch: list[tuple[Question, asyncio.Future[Answer]]]) -> None:
        answers: list[Answer]
        try:
            answers = await self._send([question for question, _ in batch])
        except Exception as error:
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():
                future.set_result(answer)
