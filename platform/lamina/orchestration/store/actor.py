"""The one named actor of a sweep: a `SharedStore` that many processes can wait on, and the one
writer to the tracker.

Nobody polls: a host waits for a trial, a thin trial for a report, the driver for events, each in
one call that returns when there is something. The actor may be killed at any time: Ray starts it
again, it reads its state from disk, and the calls that were under way are made again.
"""

import asyncio
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lamina.digests import trial_id
from lamina.orchestration.store import control
from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.event_recorder import EventRecorder, TrialReports
from lamina.orchestration.store.shared_store import Boundary, Claim, Expected, Report, SharedStore
from lamina.registry import InputError
from lamina.tracking.base import Status, Tracker, TrackingError

T = TypeVar("T")
MakeTracker = Callable[[str], Tracker]
"""Builds the tracker for a lasting run key, inside the actor."""

NAMESPACE = "lamina"
_DECISION_SECONDS = 5.0
"""How long a host waits, after a task, to be told whether the scheduler wants another. A paused
trial says nothing."""


def store_name(session: str) -> str:
    """The name of the actor, in `NAMESPACE`."""
    return f"store-{session}"


def start_store(
    output_dir: Path, session: str, scheduled: bool, make_tracker: MakeTracker
) -> StoreClient:
    """Start the store of `output_dir` on this node, where its disk is.

    `scheduled`: a scheduler looks at every report before the trial may go on, and may fork trials.

    Raises InputError when another sweep is using the folder.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = (
        ray.remote(StoreActor)
        .options(
            name=store_name(session),
            namespace=NAMESPACE,
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=10_000,
            scheduling_strategy=here,
        )
        .remote(output_dir.resolve(), session, scheduled, make_tracker)
    )
    client = StoreClient(actor)
    if refusal := client.refusal():
        client.kill()
        raise InputError(refusal)
    return client


class StoreActor:
    """The actor's class. Every method may be called again with the same arguments."""

    def __init__(
        self, output_dir: Path, session: str, scheduled: bool, make_tracker: MakeTracker
    ) -> None:
        self._output_dir = output_dir
        self._scheduled = scheduled
        self._streams: dict[str, list[Any]] = {}
        self._waiting: Counter[tuple[str, int]] = Counter()
        self._ahead: dict[str, int] = {}
        """Trials that are trained before Ray Tune has come to them, and how many tasks of them."""
        self._session = session
        self._changed = asyncio.Event()
        self._scribe_thread = ThreadPoolExecutor(1, "recorder")
        self._telling: asyncio.Task[None] | None = None
        self._refusal: str | None = None
        try:
            self._store = SharedStore(output_dir / "store", session, keep_boundaries=scheduled)
        except InputError as error:
            # Ray would wrap what __init__ raises beyond recognition.
            self._refusal = str(error)
            return
        run = self._store.fact("run") or uuid4().hex
        self._store.set_fact("run", run)
        self._told = int(self._store.fact("told") or 0)
        self._untold: list[str] = []
        """What the recorder could not take down."""
        self._recorder = EventRecorder(make_tracker(run), output_dir / "trials")

    # What must survive the actor, but not the session.

    @property
    def _closing(self) -> bool:
        return self._store.fact(f"closing/{self._session}") is not None

    @property
    def _abandoned(self) -> str | None:
        return self._store.fact(f"abandoned/{self._session}")

    async def refusal(self) -> str | None:
        """Why this store cannot be used."""
        return self._refusal

    # Thin trials

    async def submit(self, config: str, fork: Boundary | None) -> str:
        """Queue what the driver has described for a Tune configuration. Returns the name of the
        trial.

        Raises RuntimeError when the configuration is no job.
        """
        described = await self._until(lambda: self._store.fact(f"config/{config}"))
        job = json.loads(described)
        if "error" in job:
            raise RuntimeError(job["error"])
        trial = trial_id(job["mapping"], fork)
        self._ahead.pop(trial, None)
        is_halfway = self._store.last_boundary(trial) is not None
        if control.hold_of(self._store, trial) is not None:
            control.recall(self._store, trial)
        elif self._scheduled and is_halfway and self._store.state(trial) != "finished":
            # It is queued when somebody waits for a task that it has not learned: the scheduler may
            # want none.
            self._store.recall(trial)
        else:
            stage = None if fork else job["stage"]
            self._store.submit(trial, job["name"], job["mapping"], fork, stage)
        if self._abandoned:
            self._store.fail_all(self._abandoned)
        self._change()
        return trial

    async def wait(self, trial: str, task: int) -> Report:
        """The report of `task`, when it is there. Waiting for a stopped trial queues it again.

        Raises RuntimeError with the trial's own error when it has failed.
        """
        self._waiting[trial, task] += 1
        if task >= self._ahead.get(trial, task + 1):
            del self._ahead[trial]
        try:
            self._change()
            return await self._until(lambda: self._report_of(trial, task))
        finally:
            self._waiting[trial, task] -= 1

    def _report_of(self, trial: str, task: int) -> Report | None:
        if (report := self._store.report_of(trial, task)) is not None:
            return report
        state = self._store.state(trial)
        if state == "failed":
            raise RuntimeError(self._store.error(trial))
        assert state != "finished", f"{trial} has finished without a report of task {task}"
        hold = control.hold_of(self._store, trial)
        if hold == "stop":
            return control.ended(self._store, trial)
        if state in ("stopped", "paused") and self._closing:
            raise RuntimeError("the sweep is over")
        if state in ("stopped", "paused") and hold is None:
            self._store.resume(trial)
            self._change()
        return None

    async def pause(self, trial: str) -> None:
        """The scheduler wants no more of `trial` for now: its host leaves it at the next boundary,
        unless somebody else waits for it."""
        if not self._is_waited_for(trial):
            self._store.pause(trial)
            self._change()

    async def stop(self, trial: str) -> None:
        """Its host leaves `trial` at the next boundary, unless somebody else waits for it."""
        if not self._is_waited_for(trial):
            self._store.stop(trial)
            self._change()

    def _is_waited_for(self, trial: str) -> bool:
        waited_for = any(count for (each, _), count in self._waiting.items() if each == trial)
        return waited_for or trial in control.open_wishes(self._store)

    # Hosts

    async def arrive(self, host: str, where: str, process: int) -> None:
        """`host` is up, on the device and machine that `where` names."""
        self._store.add_event("host_ready", host=host, where=where, process=process)
        self._change()

    async def claim(
        self, host: str, incarnation: str, held: Sequence[str], num_hosts: int
    ) -> Claim | None:
        """The next trial for `host`. One that has `held` none waits for it, and gets None when the
        sweep is over; one that has some gets None where there is none at the moment."""

        def ready() -> tuple[Claim | None] | None:
            claim = self._store.claim(host, incarnation, self._closing, held, num_hosts)
            return (claim,) if claim is not None or held or self._closing else None

        (claim,) = await self._until(ready)
        if claim is not None:
            self._change()
        return claim

    async def parts(self, boundary: Boundary) -> dict[str, bytes]:
        """The checkpoint at `boundary`, in named parts."""
        return self._store.parts(boundary)

    async def report(
        self, trial: str, host: str, report: Report, parts: Mapping[str, bytes]
    ) -> bool:
        """`host` has learned a task of `trial`. Returns whether to go on: under a scheduler, when
        that is known."""
        self._store.report(trial, host, report, parts)
        self._change()
        wanted = (trial, int(report["task"]) + 1)

        def decided() -> bool | None:
            over = self._closing or not self._store.is_running(trial, host)
            over = over or control.is_wanted(self._store, trial) or trial in self._ahead
            return True if over or report["done"] or self._waiting[wanted] else None

        if self._scheduled:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._until(decided), _DECISION_SECONDS)
            if trial in self._ahead and wanted[1] >= self._ahead[trial] and not report["done"]:
                self._store.pause(trial)
        return self._store.is_running(trial, host) and (report["done"] or not self._closing)

    async def finish(self, trial: str, files: Mapping[str, bytes]) -> None:
        """`trial` has learned its last task; `files` are its trained adapters, by path below its
        folder."""
        folder = self._output_dir / "trials" / trial / "adapters"
        await asyncio.to_thread(_write_folder, folder, files)
        self._store.finish(trial, str(folder) if files else None)
        self._change()

    async def fail(self, trial: str, error: str) -> None:
        """`trial` raised `error`."""
        self._store.fail(trial, error)
        self._change()

    async def offer_stream(self, digest: str, reference: list[Any]) -> None:
        """A raw stream that is in the object store, as a list of one reference."""
        self._streams.setdefault(digest, reference)

    async def stream(self, digest: str) -> list[Any]:
        """The reference that was offered for `digest`, or nothing. Not durable: nor is the object
        store."""
        return self._streams.get(digest, [])

    # The driver

    async def describe(
        self, config: str, name: str, mapping: Mapping[str, Any], stage: str | None = None
    ) -> None:
        """A Tune configuration stands for this job, called `name`; those of one `stage` are the
        same until their second task."""
        described = {"name": name, "mapping": mapping, "stage": stage}
        self._store.set_fact(f"config/{config}", json.dumps(described))
        self._change()

    async def expect(self, trials: Sequence[Expected], num_tasks: int | None) -> None:
        """Queue trials that Ray Tune is going to ask for; under a scheduler, `num_tasks` of each
        are learned before it has a say."""
        for each in trials:
            trial = trial_id(each.mapping, None)
            if self._store.state(trial) is None:
                if num_tasks is not None:
                    self._ahead[trial] = num_tasks
                self._store.submit(trial, each.name, each.mapping, None, each.stage)
        self._change()

    async def advance(self, trials: Sequence[str], num_tasks: int) -> None:
        """The scheduler lets paused trials go on, with no say before `num_tasks` of each are
        learned: they are queued before Ray Tune has come to each of them."""
        for trial in trials:
            if self._store.state(trial) == "paused" and control.hold_of(self._store, trial) is None:
                self._ahead[trial] = num_tasks
                self._store.resume(trial)
        self._change()

    async def refuse(self, config: str, error: str) -> None:
        """A Tune configuration is no job, and why."""
        self._store.set_fact(f"config/{config}", json.dumps({"error": error}))
        self._change()

    async def count_unfinished(self, mappings: Sequence[Mapping[str, Any]]) -> int:
        """How many of these jobs, and of what a person asked for besides, are still to be
        trained. If none is, nothing can be asked for any more, as there will be no host."""
        trials = {trial_id(mapping, None) for mapping in mappings}
        left = {trial for trial in trials if self._store.state(trial) != "finished"}
        left |= set(control.open_wishes(self._store))
        if not left:
            self._store.set_fact(f"idle/{self._session}", "yes")
        return len(left)

    async def lose(self, host: str, error: str, last: bool) -> None:
        """`host` will not come back; if it was the `last`, nor will what waits for one."""
        self._store.release(host)
        self._store.add_event("host_lost", host=host, error=error)
        if last:
            reason = f"no host is left: {error}"
            self._store.set_fact(f"abandoned/{self._session}", reason)
            self._store.fail_all(reason)
        self._change()

    async def progress(self, host: str) -> int:
        """How many events `host` has caused: whether it got anywhere since it was started."""
        events = self._store.events(0)
        return sum(
            event.get("host") == host and event["event"] == "reported" for _, event in events
        )

    async def start_sweep(self, name: str, params: Mapping[str, Any]) -> int:
        """Open the sweep's run. Returns the number of the last event before this session."""
        before = int(self._store.fact("session_start") or 0)
        control.take_up(self._store)
        self._store.add_event("sweep_started", name=name, params=params, process=os.getpid())
        self._change()
        return before

    async def events(self, after: int) -> list[tuple[int, dict[str, Any]]]:
        """What happened after event number `after`, when there is something."""
        return await self._until(lambda: self._store.events(after) or None)

    async def results(self) -> list[dict[str, Any]]:
        """What is known of every trial ever submitted: see `control.results`."""
        return control.results(self._store)

    async def reports(self, trial: str) -> list[Report]:
        """The reports of `trial` so far."""
        return self._store.reports(trial)

    async def held_back(self) -> list[str]:
        """The trials that a person has stopped."""
        return control.held(self._store, "stop")

    async def num_paused_by_hand(self) -> int:
        """How many trials a person has paused."""
        return len(control.held(self._store, "pause"))

    async def note(self, key: str, value: str) -> None:
        """Remember a word of the scheduler's."""
        self._store.set_fact(f"note/{key}", value)

    async def noted(self, key: str) -> str | None:
        """What was remembered under `key`, in any session."""
        return self._store.fact(f"note/{key}")

    async def dismiss(self) -> None:
        """No more trials, once those have ended that a person asked for besides: hosts hand over
        what is learned and leave."""
        await self._until(lambda: None if control.open_wishes(self._store) else True)
        self._store.set_fact(f"closing/{self._session}", "yes")
        self._change()

    async def close(self, status: Status) -> str | None:
        """Close every run of the tracker and let go of the folder. Returns what the tracker could
        not write."""
        self._store.set_fact(f"closing/{self._session}", "yes")
        self._store.stop_all()
        if self._store.fact(f"status/{self._session}") is None:
            self._store.set_fact(f"status/{self._session}", status)
            self._store.add_event("sweep_finished", status=status)
        self._change()
        await self._until(lambda: True if self._telling is None else None)
        missing = [*self._untold]
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._scribe_thread, self._recorder.close
            )
            self._store.set_fact("told", str(self._told))
        except TrackingError as error:
            missing.append(str(error))
        self._store.tidy()
        return "; ".join(missing) or None

    # A person at another terminal

    async def act(self, action: control.Action, trial: str) -> str | None:
        """Stop, pause or resume a known trial. Returns why not, if it cannot be done."""
        refusal = self._too_late() or control.act(self._store, action, trial)
        if refusal is None:
            self._store.add_event("asked", action=action, subject=trial)
            self._change()
        return refusal

    async def fork(
        self, parent: str, name: str, mapping: Mapping[str, Any], settings: Mapping[str, Any]
    ) -> tuple[str | None, str | None]:
        """Queue a trial that goes on from the last boundary of `parent`. Returns its id, or None
        and why not."""
        if refusal := self._too_late():
            return None, refusal
        trial, refusal = control.fork(self._store, parent, name, mapping, settings)
        self._change()
        return trial, refusal

    def _too_late(self) -> str | None:
        if self._closing or self._store.fact(f"idle/{self._session}"):
            return "the sweep has nothing left to train and ends"
        return self._abandoned

    # Inside

    async def _until(self, ready: Callable[[], T | None]) -> T:
        """What `ready` returns as soon as that is not None; it is asked after every change."""
        while (value := ready()) is None:
            await self._changed.wait()
        return value

    def _change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
        if self._telling is None:
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        """Give the recorder every event that it has not seen; in its own thread, because it draws
        pictures."""
        loop = asyncio.get_running_loop()
        while news := self._store.events(self._told):
            for place, event in news:
                told = [
                    TrialReports(trial, self._store.name(trial), self._store.reports(trial))
                    for trial in self._concerned(event)
                ]
                try:
                    await loop.run_in_executor(
                        self._scribe_thread, self._recorder.record, event, told
                    )
                except Exception as error:
                    # A full disk, say. Training is worth more than its diary.
                    self._untold.append(f"{event['event']} of {event['trial']}: {error}")
                self._told = place
        self._telling = None
        self._changed.set()
        self._changed = asyncio.Event()

    def _concerned(self, event: Mapping[str, Any]) -> list[str]:
        """The trials whose reports the recorder needs to take down `event`."""
        if event["event"] == "sweep_finished":
            return self._store.trials()
        return [event["trial"]] if event["event"] in ("finished", "failed", "stopped") else []


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` so that the folder is there complete, or as it was."""
    part = folder.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for name, content in files.items():
        path = part / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if files:
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
