"""A cohort: learners on one backbone whose steps are computed together.

Each learner runs as if it were alone, in a greenlet of its own. Where it calls the backbone or
wants gradients, it is suspended until every learner of the cohort has come to such a call. Then
calls that can run together become one forward, and one backward goes through the sum of the losses.
No loss depends on another learner's tensors, so each learner gets its own gradient. So strategies
are ordinary code, and packing changes a result by no more than the rounding of float sums.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from lamina.backbones.backbone import Backbone
from lamina.backbones.calls import Call, Gate, Hidden
from lamina.backbones.packing import meeting
from lamina.training.learner import Learner
from lamina.training.report import TaskReport

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """How far a learner of a cohort has come: to the end of a task, to the end of its stream, or to
    an error."""

    name: str
    report: TaskReport | None = None
    """The report of the task that was learned; None where there is no further task."""
    error: BaseException | None = None


@dataclass(frozen=True)
class _Forward:
    backbone: Backbone
    call: Call


@dataclass(frozen=True)
class _Backward:
    loss: Tensor
    tensors: Sequence[Tensor]
    keep: bool


class Learns(Protocol):
    """A possible member of a cohort: a `Learner`, or anything else that learns task by task."""

    def learn(self) -> Iterator[TaskReport]:
        """Learn the tasks that are left, one for each report."""
        ...


class _Member:
    """A learner in its greenlet."""

    def __init__(self, name: str, learner: Learns) -> None:
        self.name = name
        self.asks: _Forward | _Backward | Progress | None = None
        """The request that it waits for; None: it waits at a boundary until it may go on."""
        self._greenlet = greenlet(self._learn)
        self._learner = learner
        self._spent = 0.0
        self._since: float | None = None
        self._grad = True
        if isinstance(learner, Learner):
            learner.scores.clock = self.seconds

    def seconds(self) -> float:
        """The seconds of its own code, and its share of what was run together."""
        running = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._spent + running

    def resume(self, answer: Any = None, error: BaseException | None = None) -> None:
        """Resume it with an answer or an error, until its next request."""
        # Whether gradients are recorded belongs to the thread, not to the greenlet.
        torch.set_grad_enabled(self._grad)
        self._since = time.perf_counter()
        if error is not None:
            self.asks = self._greenlet.throw(error)
        else:
            self.asks = self._greenlet.switch(answer)
        self._spent, self._since = self.seconds(), None
        self._grad = torch.is_grad_enabled()

    def share(self, seconds: float) -> None:
        """Add seconds of work that was done for it."""
        self._spent += seconds

    def leave(self) -> None:
        """End its greenlet, wherever it stands."""
        self._greenlet.throw()

    def _learn(self, _: Any) -> Progress:
        try:
            for report in self._learner.learn():
                _ask(Progress(self.name, report))
        except Exception as error:
            return Progress(self.name, error=error)
        return Progress(self.name)


class _Meeting(Gate):
    """The gate of a backbone that a cohort shares. Outside a cohort, calls pass through it
    unchanged."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def run(self, call: Call) -> Hidden:
        if getcurrent().parent is None:
            return self._backbone.run(call)
        hidden: Hidden = _ask(_Forward(self._backbone, call))
        return hidden

    def gradients(
        self, loss: Tensor, tensors: Sequence[Tensor], keep: bool
    ) -> Sequence[Tensor | None]:
        if getcurrent().parent is None:
            return self._backbone.gradients(loss, tensors, keep=keep)
        gradients: Sequence[Tensor | None] = _ask(_Backward(loss, tensors, keep))
        return gradients


def _ask(wanted: Any) -> Any:
    """Suspend the learner that runs, until the cohort has an answer."""
    return getcurrent().parent.switch(wanted)


def shared(backbone: Backbone) -> Backbone:
    """The backbone as the learners of a cohort are given it."""
    return backbone.through(_Meeting(backbone))


class Cohort:
    """Learners that join and leave at task boundaries."""

    def __init__(self, most_rows: int) -> None:
        """`most_rows`: so many rows at most are run together (a call of more runs alone)."""
        self.most_rows = most_rows
        self._members: dict[str, _Member] = {}

    def __len__(self) -> int:
        return len(self._members)

    @property
    def can_advance(self) -> bool:
        """Whether some learner does not stand at a boundary."""
        return any(not isinstance(each.asks, Progress) for each in self._members.values())

    def add(self, name: str, learner: Learns) -> None:
        """Let a learner take part; one whose backbone is `shared` is packed with others."""
        self._members[name] = _Member(name, learner)

    def go_on(self, name: str) -> None:
        """Let a learner that stands at a boundary learn its next task."""
        self._members[name].asks = None

    def remove(self, name: str) -> None:
        """Remove a learner; it ends where it stands."""
        self._members.pop(name).leave()

    def dissolve(self) -> None:
        """Remove all learners."""
        for name in list(self._members):
            self.remove(name)

    def advance(self) -> list[Progress]:
        """Run until some learners come to a boundary, and return these; each stands there until it
        may go on or is removed. Nothing where nobody can advance."""
        grad = torch.is_grad_enabled()
        try:
            while True:
                for member in self._members.values():
                    if member.asks is None:
                        member.resume()
                        if isinstance(member.asks, Progress):
                            return [member.asks]
                if calls := self._waiting(_Forward):
                    arrived = self._run(self._largest_group(calls))
                elif losses := self._waiting(_Backward):
                    # Whoever goes back again comes first: the others' steps would change tensors
                    # in the graph that they share.
                    again = [each for each in losses if _keeps(each)]
                    arrived = self._go_back(again or losses)
                else:
                    return []
                if arrived:
                    return arrived
        finally:
            torch.set_grad_enabled(grad)

    def _waiting(self, kind: type) -> list[_Member]:
        return [member for member in self._members.values() if isinstance(member.asks, kind)]

    def _largest_group(self, members: Sequence[_Member]) -> list[_Member]:
        """The largest group of members whose calls can run together, as far as there is room."""
        groups: dict[Hashable, list[_Member]] = defaultdict(list)
        for member in members:
            assert isinstance(member.asks, _Forward)
            backbone, call = member.asks.backbone, member.asks.call
            with torch.set_grad_enabled(member._grad):
                met = meeting(call, backbone.architecture)
            key = member.name if met is None else (id(backbone), met)
            groups[key].append(member)
        largest = max(groups.values(), key=len)
        chosen, rows = largest[:1], _num_rows(largest[0])
        for member in largest[1:]:
            rows += _num_rows(member)
            if rows <= self.most_rows:
                chosen.append(member)
        return chosen

    def _run(self, members: list[_Member]) -> list[Progress]:
        asked = [member.asks for member in members]
        calls = [each.call for each in asked if isinstance(each, _Forward)]
        backbone = asked[0].backbone  # type: ignore[union-attr]

        def together() -> Sequence[Hidden]:
            torch.set_grad_enabled(members[0]._grad)
            return backbone.run_together(calls)

        return _answer(members, together, lambda at: backbone.run(calls[at]))

    def _go_back(self, members: list[_Member]) -> list[Progress]:
        asked = [member.asks for member in members if isinstance(member.asks, _Backward)]
        keep = any(each.keep for each in asked)

        def together() -> Sequence[Sequence[Tensor | None]]:
            tensors = [tensor for each in asked for tensor in each.tensors]
            losses = [each.loss for each in asked]
            found = list(torch.autograd.grad(losses, tensors, allow_unused=True, retain_graph=keep))
            return [[found.pop(0) for _ in each.tensors] for each in asked]

        def alone(at: int) -> Sequence[Tensor | None]:
            each = asked[at]
            return torch.autograd.grad(
                each.loss, each.tensors, allow_unused=True, retain_graph=True
            )

        return _answer(members, together, alone)


class _Errand:
    """A function as a member of a cohort, without tasks."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self._call = call

    def learn(self) -> Iterator[TaskReport]:
        self.result = self._call()
        return iter(())


def together(calls: Sequence[Callable[[], Result]], most: int, most_rows: int) -> list[Result]:
    """What each call returns, in order; those that use a `shared` backbone meet there, `most` calls
    being under way at a time and `most_rows` rows running together.

    Who meets whom depends on the calls alone. Raises the first error of any, which ends the others.
    """
    cohort = Cohort(most_rows)
    errands = [_Errand(call) for call in calls]
    waiting = iter(enumerate(errands))
    try:
        for at, errand in islice(waiting, most):
            cohort.add(str(at), errand)
        while len(cohort):
            for progress in cohort.advance():
                if progress.error is not None:
                    raise progress.error
                cohort.remove(progress.name)
                for at, errand in islice(waiting, 1):
                    cohort.add(str(at), errand)
    finally:
        cohort.dissolve()
    return [errand.result for errand in errands]


def _answer(
    members: Sequence[_Member], together: Callable[[], Sequence[Any]], alone: Callable[[int], Any]
) -> list[Progress]:
    """Give each member its share of the common result. Where the common work fails, each member is
    served by itself, so that an error or a lack of memory only hits the member that causes it."""
    answers: list[Any] = []
    errors: list[Exception | None] = []
    start = time.perf_counter()
    try:
        answers, errors = list(together()), [None] * len(members)
    except Exception as failed:
        for at, member in enumerate(members):
            torch.set_grad_enabled(member._grad)
            answer: Any = None
            error: Exception | None = failed
            if len(members) > 1:
                try:
                    answer, error = alone(at), None
                except Exception as own:
                    error = own
            answers.append(answer)
            errors.append(error)
    share = (time.perf_counter() - start) / len(members)
    for member, answer, error in zip(members, answers, errors, strict=True):
        member.share(share)
        member.resume(answer, error)
    return [member.asks for member in members if isinstance(member.asks, Progress)]


def _keeps(member: _Member) -> bool:
    assert isinstance(member.asks, _Backward)
    return member.asks.keep


def _num_rows(member: _Member) -> int:
    assert isinstance(member.asks, _Forward)
    return member.asks.call.num_rows
