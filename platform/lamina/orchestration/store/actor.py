"""The one named actor of a sweep: a `SharedStore` that many processes can wait on, and the one
writer to the tracker.

Nobody polls: a host waits for a trial, a thin trial for a report, the driver for events, each in
one call that returns when there is something. Every change of the ledger wakes all of them. The
actor may be killed at any time: Ray starts it again, it reads its state from disk, and the calls
that were under way are made again.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lamina.digests import trial_id
from lamina.files import disk_fault, replacing_folder
from lamina.folders import TRIALS
from lamina.orchestration.cluster import end_with_raylet
from lamina.orchestration.store import control, host_watch
from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.demand import Demand
from lamina.orchestration.store.event_recorder import EventRecorder
from lamina.orchestration.store.host_watch import HostWatch
from lamina.orchestration.store.narrator import Narrator
from lamina.orchestration.store.parcels import Parcel, packed, unpacked
from lamina.orchestration.store.records import Boundary, Claim, Configuration, Expected, Report
from lamina.orchestration.store.shared_store import SharedStore
from lamina.orchestration.store.sweep_record import change_sweep, read_sweep
from lamina.registry import InputError
from lamina.tracking.base import Status, Tracker
from lamina.tracking.data import DataDocument

T = TypeVar("T")
MakeTracker = Callable[[str], Tracker]
"""Builds the tracker for a lasting run key, inside the actor."""

NAMESPACE = "lamina"
_DECISION_SECONDS = 5.0
"""How long a host waits, after a task, to be told whether the scheduler wants another."""
_WATCH_SECONDS = 1.0
"""How often the store looks for hosts that are silent."""


def store_name(session: str) -> str:
    """The name of the actor, in `NAMESPACE`."""
    return f"store-{session}"


def start_store(
    output_dir: Path, session: str, scheduled: bool, make_tracker: MakeTracker
) -> StoreClient:
    """Start the store of `output_dir` on this node, where its disk is.

    `scheduled`: a scheduler looks at every report before the trial may go on, and may fork trials.

    Raises InputError when another sweep is using the folder, or what is in it cannot be used.
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
        .remote(output_dir.resolve(), session, scheduled, make_tracker, host_watch.SILENT_SECONDS)
    )
    client = StoreClient(actor)
    if refusal := client.refusal():
        client.kill()
        raise InputError(refusal)
    return client


class StoreActor:
    """The actor's class: it waits, and leaves the rest to its parts. Every method may be called
    again with the same arguments. A `request` is a name that no other call has: what would happen
    again, or be answered otherwise, happens once for it."""

    def __init__(
        self,
        output_dir: Path,
        session: str,
        scheduled: bool,
        make_tracker: MakeTracker,
        silent_seconds: float = host_watch.SILENT_SECONDS,
    ) -> None:
        """As `start_store`; hosts that are silent for longer than `silent_seconds` are lost."""
        end_with_raylet()
        self._output_dir = output_dir
        self._streams: dict[str, list[Any]] = {}
        self._changed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._refusal: str | None = None
        self._fault: OSError | None = None
        """What was wrong with the disk when it let the store down. The sweep is over then: whoever
        waits is told, and what is on the disk goes on with the next."""
        self._writing = asyncio.Lock()
        """Held while a checkpoint is on the disk and not yet in the ledger: tidying up would delete
        it. And while a bundle is written: two hosts may bring the same."""
        try:
            self._store = SharedStore(output_dir / "store", session, keep_boundaries=scheduled)
        except InputError as error:
            # Ray would wrap what __init__ raises beyond recognition.
            self._refusal = str(error)
            return
        self._ledger = self._store.ledger
        self._demand = Demand(self._store, scheduled)
        self._hosts = HostWatch(self._store, deadline=silent_seconds)
        run = read_sweep(self._ledger).run or uuid4().hex
        change_sweep(self._ledger, run=run)
        recorder = EventRecorder(make_tracker(run), output_dir / TRIALS)
        self._narrator = Narrator(self._store, recorder)
        self._ledger.on_change = self._wake
        self._ledger.on_fault = self._halt

    async def refusal(self) -> str | None:
        """Why this store cannot be used."""
        return self._refusal

    async def answer(self) -> int:
        """Answer that the actor is alive, with the number of its process."""
        return os.getpid()

    # Thin trials

    async def submit(self, config: str, fork: Boundary | None) -> str:
        """Queue what the driver has described for a Tune configuration. Returns the name of the
        trial.

        Raises RuntimeError when the configuration is no job.
        """
        job = await self._until(lambda: self._store.configuration(config))
        if job.error is not None:
            raise RuntimeError(job.error)
        return self._demand.submit(job, fork)

    async def wait(self, trial: str, task: int) -> Report:
        """The report of `task`, when it is there. Waiting for a stopped trial queues it again.

        Raises RuntimeError with the trial's own error when it has failed.
        """
        with self._demand.waiting(trial, task):
            # A host may wait to be told that somebody wants this task.
            self._wake()
            return await self._until(lambda: self._demand.report_of(trial, task))

    async def pause(self, trial: str) -> None:
        """The scheduler wants no more of `trial` for now: its host leaves it at the next boundary,
        unless somebody else waits for it."""
        if not self._demand.is_wanted(trial):
            self._store.pause(trial)

    async def stop(self, trial: str) -> None:
        """Its host leaves `trial` at the next boundary, unless somebody else waits for it."""
        if not self._demand.is_wanted(trial):
            self._store.stop(trial)

    # Hosts

    async def arrive(self, host: str, where: str, process: int, request: str) -> None:
        """`host` is up, on the device and machine that `where` names."""
        self._hosts.hear(host)

        def tell() -> None:
            self._ledger.add_event("host_ready", host=host, where=where, process=process)

        self._ledger.once(request, tell)

    async def beat(self, host: str) -> None:
        """`host` is still there."""
        self._hosts.hear(host)

    async def leave(self, host: str) -> None:
        """`host` has handed over everything and ends."""
        self._hosts.leave(host)

    async def miss(self, host: str, needs: str) -> None:
        """`host` has not come, as no machine has what it `needs`."""
        self._hosts.miss(host, needs)

    async def claim(
        self, host: str, incarnation: str, held: Sequence[str], num_hosts: int
    ) -> Claim | None:
        """The next trial for `host`. One that has `held` none waits for it, and gets None when the
        sweep is over and nothing is owed, which another host may yet fail to hand over; one that
        has some gets None where there is none at the moment."""
        self._hosts.hear(host)

        def ready() -> tuple[Claim | None] | None:
            is_closing = read_sweep(self._ledger).is_closing
            claim = self._store.claim(host, incarnation, is_closing, held, num_hosts)
            is_over = is_closing and not self._store.owed()
            return (claim,) if claim is not None or held or is_over else None

        (claim,) = await self._until(ready)
        return claim

    async def checkpoint(self, trial: str, host: str) -> dict[str, Parcel] | None:
        """The checkpoint from which `trial`, which `host` has claimed, goes on, in named pieces;
        empty: it begins.

        A damaged checkpoint is not used: the trial is set back to the one before. None: `host` is
        not to train the trial any more, because a person has stopped it, or because it cannot be
        set back and has failed.
        """
        while self._store.is_running(trial, host):
            async with self._writing:
                # Nothing is deleted meanwhile.
                if (digests := self._store.start(trial)) is None:
                    return {}
                try:
                    return await self._on_disk(lambda: packed(self._store.read(digests)))
                except InputError as damage:
                    if not self._store.set_back(trial, str(damage)):
                        self._store.fail(trial, str(damage))
        return None

    async def report(
        self, trial: str, host: str, report: Report, pieces: Mapping[str, Parcel]
    ) -> bool:
        """`host` has learned a task of `trial`. Returns whether to go on: under a scheduler, when
        that is known."""
        self._hosts.hear(host)
        async with self._writing:
            # A slow disk holds up this host, and no other call.
            digests = await self._on_disk(lambda: self._store.write(unpacked(pieces)))
            self._store.record(trial, host, report, digests)
        decided = self._until(lambda: self._demand.is_decided(trial, host, report) or None)
        try:
            await asyncio.wait_for(decided, _DECISION_SECONDS)
        except TimeoutError:
            self._demand.hear_nothing(trial)
        else:
            self._demand.hear(trial)
        return self._demand.goes_on(trial, host, report)

    async def keep_midway(
        self, trial: str, host: str, task: int, pieces: Mapping[str, Parcel]
    ) -> None:
        """`host` is within `task` of `trial`: a checkpoint, in the place of the one before."""
        self._hosts.hear(host)
        async with self._writing:
            digests = await self._on_disk(lambda: self._store.write(unpacked(pieces)))
            self._store.record_midway(trial, host, task, digests)

    async def finish(self, trial: str, folder: str, files: Mapping[str, Parcel]) -> None:
        """`trial` has learned its last task; `files` are what it leaves, by path below `folder`
        of its own folder. A host that was taken for gone may bring what another has brought."""
        target = self._output_dir / TRIALS / trial / folder
        async with self._writing:
            if self._store.state(trial) != "finished":
                await self._on_disk(lambda: _write_folder(target, unpacked(files)))
                self._store.finish(trial, str(target) if files else None)

    async def fail(self, trial: str, error: str) -> None:
        """`trial` raised `error`."""
        self._store.fail(trial, error)

    async def offer_stream(self, digest: str, reference: list[Any]) -> None:
        """A raw stream that is in the object store, as a list of one reference."""
        self._streams.setdefault(digest, reference)

    async def stream(self, digest: str) -> list[Any]:
        """The reference that was offered for `digest`, or nothing. Not durable: nor is the object
        store."""
        return self._streams.get(digest, [])

    # The driver

    async def describe(self, config: str, job: Configuration) -> None:
        """Remember the job that a Tune configuration stands for."""
        self._store.describe(config, job)

    async def expect(self, trials: Sequence[Expected], num_tasks: int | None) -> None:
        """Queue trials that Ray Tune is going to ask for; under a scheduler, `num_tasks` of each
        are learned before it has a say."""
        self._demand.expect(trials, num_tasks)

    async def advance(self, trials: Sequence[str], num_tasks: int) -> None:
        """The scheduler lets paused trials go on, with no say before `num_tasks` of each are
        learned."""
        self._demand.advance(trials, num_tasks)

    async def count_unfinished(self, mappings: Sequence[Mapping[str, Any]]) -> int:
        """How many of these jobs, and of what a person asked for besides, are still to be
        trained. If none is, nothing can be asked for any more, as there will be no host."""
        trials = {trial_id(mapping, None) for mapping in mappings}
        left = {trial for trial in trials if self._store.state(trial) != "finished"}
        left |= set(control.open_wishes(self._store))
        if not left:
            change_sweep(self._ledger, is_idle=True)
        return len(left)

    async def lose(self, host: str, error: str, last: bool) -> None:
        """`host` will not come back; if it was the `last`, nor will what waits for one."""
        self._hosts.lose(host, error)
        if last:
            reason = f"no host is left: {error}"
            change_sweep(self._ledger, abandoned=reason)
            self._store.fail_all(reason)

    async def progress(self, host: str) -> int:
        """How many tasks `host` has reported, and trials that were given up on it: whether it got
        anywhere since it was started."""
        return self._store.num_ended_on(host)

    async def start_sweep(
        self, name: str, params: Mapping[str, Any], data: Sequence[DataDocument]
    ) -> int:
        """Open the sweep's run; `data` are the streams of its trials. Returns the number of the
        last event before this session."""
        control.take_up(self._store)
        self._ledger.add_event(
            "sweep_started", name=name, params=params, data=list(data), process=os.getpid()
        )
        return read_sweep(self._ledger).first_event

    async def events(self, after: int) -> list[tuple[int, dict[str, Any]]]:
        """The events after number `after`, when there are some."""
        return await self._until(lambda: self._store.events(after) or None)

    async def results(self) -> list[dict[str, Any]]:
        """The results of every trial ever submitted: see `control.results`."""
        return control.results(self._store)

    async def reports(self, trial: str) -> list[Report]:
        """The reports of `trial` so far."""
        return self._store.reports(trial)

    async def held(self, how: str) -> list[str]:
        """The trials that a person has paused (`pause`), or stopped (`stop`)."""
        return self._store.held(how)

    async def note(self, key: str, value: str) -> None:
        """Keep a note of the scheduler."""
        self._store.set_note(key, value)

    async def noted(self, key: str) -> str | None:
        """The note under `key`, of any session."""
        return self._store.note(key)

    async def dismiss(self) -> list[str]:
        """No more trials, once those have ended that a person asked for besides: hosts hand over
        what is learned and leave. Returns when they have, with the names of those that left. Where
        a trial of an earlier session has only its bundle to leave, the host that comes does that.
        """
        await self._until(lambda: None if control.open_wishes(self._store) else True)
        change_sweep(self._ledger, is_closing=True)
        await self._until(lambda: None if self._store.owed() or self._hosts.here() else True)
        return self._hosts.left()

    async def behind(self) -> int:
        """How much happened that the tracker has not written yet."""
        return self._narrator.behind

    async def close(self, status: Status) -> str | None:
        """Close every run of the tracker and let go of the folder. Returns what the tracker could
        not write."""
        with self._ledger.transaction():
            change_sweep(self._ledger, is_closing=True)
            self._store.stop_all()
            if read_sweep(self._ledger).status is None:
                change_sweep(self._ledger, status=status)
                self._ledger.add_event("sweep_finished", status=status)
        missing = await self._narrator.close()
        async with self._writing:
            self._store.tidy()
        if self._watching is not None:
            self._watching.cancel()
        return missing

    # A person at another terminal

    async def act(self, action: control.Action, trial: str, request: str) -> str | None:
        """Stop, pause or resume a known trial. Returns why not, if it cannot be done."""

        def answer() -> str | None:
            refusal = self._too_late() or control.act(self._store, action, trial)
            if refusal is None:
                self._ledger.add_event("asked", action=action, subject=trial)
            return refusal

        refusal: str | None = self._ledger.once(request, answer)
        return refusal

    async def fork(
        self,
        parent: str,
        name: str,
        mapping: Mapping[str, Any],
        settings: Mapping[str, Any],
        request: str,
    ) -> tuple[str | None, str | None]:
        """Queue a trial that goes on from the last boundary of `parent`. Returns its id, or None
        and why not."""

        def answer() -> tuple[str | None, str | None]:
            if refusal := self._too_late():
                return None, refusal
            return control.fork(self._store, parent, name, mapping, settings)

        trial, refusal = self._ledger.once(request, answer)
        return trial, refusal

    def _too_late(self) -> str | None:
        sweep = read_sweep(self._ledger)
        if sweep.is_closing or sweep.is_idle:
            return "the sweep has nothing left to train and ends"
        return sweep.abandoned

    # Inside

    async def _until(self, ready: Callable[[], T | None]) -> T:
        """Wait for `ready` to return something other than None, and return that. It is called after
        every change."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        while True:
            if self._fault is not None:
                raise self._fault
            changed = self._changed
            if (value := ready()) is not None:
                return value
            await changed.wait()

    async def _on_disk(self, write: Callable[..., T], *arguments: Any) -> T:
        """Call `write` in a thread, and return its result. A fault of the disk is the sweep's."""
        try:
            return await asyncio.to_thread(write, *arguments)
        except OSError as error:
            if disk_fault(error) is not None:
                self._halt(error)
            raise

    def _halt(self, error: OSError) -> None:
        self._fault = self._fault or error
        self._wake()

    def _wake(self) -> None:
        """Wake all waiting calls after a change: each checks its condition again."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._narrator.notify()

    async def _watch(self) -> None:
        while True:
            self._hosts.lose_silent()
            await asyncio.sleep(_WATCH_SECONDS)


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` so that the folder is there complete, or as it was; also after a power cut."""
    if not files:
        return
    with replacing_folder(folder) as unfinished:
        for name, content in files.items():
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
