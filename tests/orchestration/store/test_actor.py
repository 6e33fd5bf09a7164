"""The store's actor without Ray: what hosts are given before Ray Tune has come to it."""

import asyncio
import os
import resource
import signal
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from lamina.digests import trial_id
from lamina.files import disk_fault
from lamina.orchestration.store.actor import StoreActor
from lamina.orchestration.store.records import Configuration
from lamina.orchestration.store.shared_store import Boundary, Expected
from lamina.tracking.trackers import make_tracker
from watched import report_of

JOB = {"seed": 0, "strategy": {"name": "er"}}
TRIAL = trial_id(JOB, None)


def started(folder, session="one", scheduled=True):
    """The actor of a sweep that has a scheduler, or has none; started again in the same folder it
    is what Ray starts after the first was killed."""
    tracker = partial(make_tracker, folder, False, None, "small", "small")
    return StoreActor(folder, session, scheduled, tracker)


@pytest.fixture
def run(tmp_path):
    """Runs a course of events with the actor of a sweep that has a scheduler."""

    async def whole(course):
        actor = started(tmp_path)
        actor = await course(actor) or actor
        await actor.close("finished")
        actor._store.close()

    return lambda course: asyncio.run(whole(course))


@pytest.fixture
def killed(tmp_path):
    """Kills an actor between two calls, or spares it; returns the one that goes on."""

    def kill(actor, is_killed=True, session="one", scheduled=True):
        if not is_killed:
            return actor
        for task in (actor._watching, actor._narrator._task):
            if task is not None:
                task.cancel()
        actor._narrator._thread.shutdown()
        actor._narrator._recorder.close()
        actor._store.close()
        return started(tmp_path, session, scheduled)

    return kill


async def learn(actor, task, num_tasks=4):
    """A host learns a task; returns whether it is to go on with the next."""
    return await actor.report(TRIAL, "host-0", report_of(task, num_tasks), {"rest": b"%d" % task})


async def learn_ahead(actor):
    """One task before Ray Tune has come to the trial: as many as before its scheduler has a say."""
    await actor.expect([Expected("er", JOB, None)], 1)
    await actor.claim("host-0", "x", [], 1)
    assert not await learn(actor, 0)


async def claimed(actor):
    """What a host gets that has nothing to do."""
    claim = await asyncio.wait_for(actor.claim("host-0", "x", [], 1), timeout=60)
    return claim.trial


def test_what_is_expected_is_trained_until_the_scheduler_has_a_say(run):
    async def course(actor):
        await learn_ahead(actor)
        assert actor._store.state(TRIAL) == "paused"

    run(course)


def test_what_a_rung_lets_through_is_trained_to_the_next_one_before_anybody_waits_for_it(run):
    async def course(actor):
        await learn_ahead(actor)
        await actor.advance([TRIAL], 3)
        assert await claimed(actor) == TRIAL
        assert await learn(actor, 1)
        assert not await learn(actor, 2)
        assert actor._store.state(TRIAL) == "paused"

    run(course)


def test_who_waits_for_a_task_beyond_the_rung_has_it_trained_without_another_pause(run):
    async def course(actor):
        await learn_ahead(actor)
        await actor.advance([TRIAL], 2)
        await claimed(actor)
        assert not await learn(actor, 1)
        third, fourth = (asyncio.create_task(actor.wait(TRIAL, task)) for task in (2, 3))
        await asyncio.sleep(0)
        assert await claimed(actor) == TRIAL
        assert await learn(actor, 2)
        assert await learn(actor, 3)
        assert [(await each)["task"] for each in (third, fourth)] == [2, 3]

    run(course)


def test_a_trial_of_which_the_scheduler_says_nothing_waits_after_one_more_task(run, monkeypatch):
    monkeypatch.setattr("lamina.orchestration.store.actor._DECISION_SECONDS", 0.01)

    async def course(actor):
        await learn_ahead(actor)
        asked = asyncio.create_task(actor.wait(TRIAL, 1))
        assert await claimed(actor) == TRIAL
        assert await learn(actor, 1, num_tasks=9)
        assert not await learn(actor, 2, num_tasks=9)
        assert actor._store.state(TRIAL) == "paused"
        assert (await asked)["task"] == 1
        assert (await actor.wait(TRIAL, 2))["task"] == 2
        asked = asyncio.create_task(actor.wait(TRIAL, 3))
        assert await claimed(actor) == TRIAL
        asked.cancel()

    run(course)


def test_what_is_asked_again_as_its_answer_was_lost_happens_once_also_in_a_new_store(run, killed):
    async def course(actor):
        await learn_ahead(actor)
        trials = []
        for _ in range(2):
            await actor.arrive("host-0", "here", 1, "arrives")
            assert await actor.act("pause", TRIAL, "pauses") is None
            trial, refusal = await actor.fork(TRIAL, "fork", JOB | {"seed": 1}, {}, "forks")
            assert refusal is None
            trials.append(trial)
            # The parent learns on: asked now for the first time, the fork would be another one.
            await learn(actor, 1)
            actor = killed(actor)
        assert trials[0] == trials[1]
        assert sorted(actor._store.trials()) == sorted([TRIAL, trials[0]])
        kinds = [event["event"] for _, event in actor._store.events(0)]
        assert (kinds.count("host_ready"), kinds.count("asked")) == (1, 1)
        return actor

    run(course)


def test_what_a_person_has_paused_is_not_queued_by_the_scheduler(run):
    async def course(actor):
        await learn_ahead(actor)
        await actor.act("pause", TRIAL, "request")
        await actor.advance([TRIAL], 3)
        assert actor._store.state(TRIAL) == "paused"

    run(course)


@pytest.mark.parametrize("is_killed", [False, True], ids=["undisturbed", "store killed"])
def test_a_restart_of_the_store_lets_nothing_be_trained_that_no_scheduler_asked_for(
    run, killed, is_killed
):
    async def course(actor):
        await actor.expect([Expected("er", JOB, None)], 2)
        actor = killed(actor, is_killed)
        await actor.claim("host-0", "x", [], 1)
        actor = killed(actor, is_killed)
        assert await learn(actor, 0)
        actor = killed(actor, is_killed)
        assert not await learn(actor, 1)
        assert actor._store.state(TRIAL) == "paused"
        actor = killed(actor, is_killed)
        await actor.advance([TRIAL], 3)
        actor = killed(actor, is_killed)
        await actor.claim("host-0", "x", [], 1)
        actor = killed(actor, is_killed)
        assert not await learn(actor, 2)
        assert actor._store.state(TRIAL) == "paused"
        return actor

    run(course)


def test_a_new_driver_forgets_what_was_trained_ahead(run, killed):
    async def course(actor):
        await actor.expect([Expected("er", JOB, None)], 2)
        actor = killed(actor, session="two")
        assert actor._store.ahead(TRIAL) is None
        return actor

    run(course)


def test_who_waits_for_a_trial_hears_that_the_store_has_failed_it(run):
    async def course(actor):
        await actor.expect([Expected("er", JOB, None)], None)
        waiting = asyncio.create_task(actor.wait(TRIAL, 0))
        for incarnation in range(3):
            await actor.claim("host-0", f"incarnation {incarnation}", [], 1)
        idle = asyncio.create_task(actor.claim("host-0", "last", [], 1))
        with pytest.raises(RuntimeError, match="its host died 3 times on the same task"):
            await asyncio.wait_for(waiting, timeout=60)
        idle.cancel()

    run(course)


def test_a_sweep_is_dismissed_when_its_hosts_have_handed_over_and_left(run):
    async def course(actor):
        await actor.arrive("host-0", "here", 1, "one")
        await actor.arrive("host-1", "there", 2, "two")
        await actor.expect([Expected("er", JOB, None)], None)
        await actor.claim("host-0", "x", [], 2)
        # Somebody waits for every task, so the host goes on with each.
        waiting = [asyncio.create_task(actor.wait(TRIAL, task)) for task in range(4)]
        await asyncio.sleep(0)
        for task in range(4):
            await learn(actor, task)
        await asyncio.gather(*waiting)
        dismissed = asyncio.create_task(actor.dismiss())
        await actor.leave("host-1")
        await asyncio.sleep(0)
        assert not dismissed.done()
        assert await actor.claim("host-0", "x", [], 2) is not None, "what is learned is handed over"
        await actor.finish(TRIAL, "bundle", {})
        assert await actor.claim("host-0", "x", [], 2) is None
        assert not dismissed.done()
        await actor.leave("host-0")
        assert sorted(await asyncio.wait_for(dismissed, timeout=60)) == ["host-0", "host-1"]
        assert actor._store.state(TRIAL) == "finished"

    run(course)


def test_a_sweep_is_dismissed_although_a_host_is_gone(run):
    async def course(actor):
        for host in ("host-0", "host-1"):
            await actor.arrive(host, "here", 1, host)
        dismissed = asyncio.create_task(actor.dismiss())
        await actor.leave("host-0")
        await actor.lose("host-1", "its node is gone", False)
        assert await asyncio.wait_for(dismissed, timeout=60) == ["host-0"]

    run(course)


async def learn_all(actor, host="host-0"):
    """A host learns every task of the trial, which Ray Tune hears of, and hands nothing over."""
    await actor.describe("config", Configuration("er", JOB))
    await actor.submit("config", None)
    assert (await actor.claim(host, "x", [], 2)).trial == TRIAL
    waiting = [asyncio.create_task(actor.wait(TRIAL, task)) for task in range(4)]
    await asyncio.sleep(0)
    for task in range(4):
        assert await actor.report(TRIAL, host, report_of(task, 4), {"rest": b"%d" % task})
    await asyncio.gather(*waiting)


async def still_waits(call):
    """The task of a call that has not come to an end."""
    task = asyncio.create_task(call)
    done, _ = await asyncio.wait([task], timeout=0.1)
    assert not done
    return task


async def hand_over(actor, host):
    """A host gets the trial that has learned every task, writes its bundle, and leaves."""
    claim = await asyncio.wait_for(actor.claim(host, "y", [], 1), timeout=60)
    assert (claim.trial, actor._store.last_boundary(claim.trial)) == (TRIAL, Boundary(TRIAL, 3))
    await actor.finish(TRIAL, "bundle", {})
    assert await asyncio.wait_for(actor.claim(host, "y", [], 1), timeout=60) is None
    await actor.leave(host)


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_next_sweep_waits_for_a_host_where_a_trial_has_learned_all_and_left_nothing(
    tmp_path, killed, scheduled
):
    async def course():
        actor = started(tmp_path, scheduled=scheduled)
        await learn_all(actor)
        actor = killed(actor, session="two", scheduled=scheduled)
        await actor.describe("config", Configuration("er", JOB))
        await actor.submit("config", None)
        assert [(await actor.wait(TRIAL, task))["task"] for task in range(4)] == [0, 1, 2, 3]
        dismissed = await still_waits(actor.dismiss())
        await actor.arrive("host-0", "here", 1, "request")
        await hand_over(actor, "host-0")
        assert await asyncio.wait_for(dismissed, timeout=60) == ["host-0"]
        assert actor._store.state(TRIAL) == "finished"
        await actor.close("finished")
        actor._store.close()

    asyncio.run(course())


def test_a_host_is_let_go_when_no_other_host_has_to_hand_over_what_it_could_take_on(run):
    async def course(actor):
        await learn_all(actor, "host-1")
        dismissed = await still_waits(actor.dismiss())
        idle = await still_waits(actor.claim("host-0", "y", [], 1))
        await actor.lose("host-1", "its controller was killed", False)
        assert (await asyncio.wait_for(idle, timeout=60)).trial == TRIAL
        await hand_over(actor, "host-0")
        assert await asyncio.wait_for(dismissed, timeout=60) == ["host-0"]
        assert actor._store.state(TRIAL) == "finished"

    run(course)


def test_a_sweep_whose_last_host_is_lost_waits_for_no_bundle(run):
    async def course(actor):
        await learn_all(actor)
        dismissed = await still_waits(actor.dismiss())
        await actor.lose("host-0", "its node is gone", True)
        assert await asyncio.wait_for(dismissed, timeout=60) == []
        assert "no host is left" in actor._store.error(TRIAL)

    run(course)


@pytest.mark.parametrize("is_lost", [False, True], ids=["host there", "host lost"])
def test_a_trial_that_was_paused_while_it_learned_its_last_task_leaves_its_bundle(run, is_lost):
    async def course(actor):
        await actor.expect([Expected("er", JOB, None)], 4)
        await actor.claim("host-0", "x", [], 1)
        for task in range(3):
            await learn(actor, task)
        await actor.pause(TRIAL)
        assert await learn(actor, 3), "there is nothing left to pause"
        if is_lost:
            await actor.lose("host-0", "its node is gone", False)
            assert (await actor.wait(TRIAL, 3))["done"]
            dismissed = await still_waits(actor.dismiss())
            await hand_over(actor, "host-1")
            await asyncio.wait_for(dismissed, timeout=60)
        else:
            await actor.finish(TRIAL, "bundle", {})
        assert actor._store.state(TRIAL) == "finished"

    run(course)


class SlowDisk:
    """A store's checkpoints on a disk whose first write takes until it is `let_go`."""

    def __init__(self, store):
        self._write = store.write
        self._goes_on = threading.Event()
        self._is_first = True
        self.has_written = threading.Event()
        store.write = self.write

    def write(self, parts):
        digests = self._write(parts)
        if self._is_first:
            self._is_first = False
            self.has_written.set()
            self._goes_on.wait()
        return digests

    def let_go(self):
        self._goes_on.set()


@pytest.mark.timeout(60)
def test_a_slow_disk_holds_up_no_other_call(run):
    async def course(actor):
        await actor.expect([Expected("er", JOB, None)], 4)
        await actor.claim("host-0", "x", [], 1)
        disk = SlowDisk(actor._store)
        learned = asyncio.create_task(learn(actor, 0))
        await asyncio.to_thread(disk.has_written.wait)
        await actor.beat("host-1")
        assert await actor.reports(TRIAL) == [], "it is not known before it is on the disk"
        disk.let_go()
        await learned
        assert len(await actor.reports(TRIAL)) == 1

    run(course)


@pytest.mark.timeout(60)
def test_what_is_being_written_is_not_deleted_when_another_trial_needs_it_no_more(tmp_path):
    async def course():
        actor = started(tmp_path, scheduled=False)
        jobs = [{**JOB, "seed": seed} for seed in range(2)]
        one, other = (trial_id(job, None) for job in jobs)
        await actor.expect([Expected(str(job["seed"]), job, None) for job in jobs], None)
        for host in range(2):
            await actor.claim(f"host-{host}", "x", [], 2)
        same = {"rest": b"the same"}
        await actor.report(one, "host-0", report_of(0), same)
        await actor.report(one, "host-0", report_of(1), {"rest": b"others"})
        disk = SlowDisk(actor._store)
        writing = asyncio.create_task(actor.report(other, "host-1", report_of(0), same))
        await asyncio.to_thread(disk.has_written.wait)
        forgetting = asyncio.create_task(
            actor.report(one, "host-0", report_of(2), {"rest": b"more"})
        )
        await asyncio.wait([forgetting], timeout=1)
        disk.let_go()
        await asyncio.gather(writing, forgetting)
        assert await actor.checkpoint(other, "host-1") == same
        assert actor._store.at(Boundary(one, 0)) == {}
        await actor.close("finished")
        actor._store.close()

    asyncio.run(course())


def test_a_checkpoint_is_read_once_when_its_trial_is_taken_up_and_a_damaged_one_is_passed_over(
    run, tmp_path, monkeypatch
):
    async def course(actor):
        await actor.expect([Expected("er", JOB, None)], 4)
        await actor.claim("host-0", "x", [], 1)
        for task in range(2):
            await learn(actor, task)
        files = {path.read_bytes(): path for path in tmp_path.glob("store/payloads/*")}
        read, read_bytes = [], Path.read_bytes
        monkeypatch.setattr(
            Path, "read_bytes", lambda path: [read.append(path), read_bytes(path)][1]
        )
        assert (await actor.claim("host-0", "y", [], 1)).trial == TRIAL
        assert read == []
        assert await actor.checkpoint(TRIAL, "host-0") == {"rest": b"1"}
        assert read == [files[b"1"]]
        files[b"1"].write_bytes(b"x")
        assert await actor.checkpoint(TRIAL, "host-0") == {"rest": b"0"}
        assert [each["task"] for each in await actor.reports(TRIAL)] == [0]
        assert await actor.checkpoint(TRIAL, "host-1") is None, "it is another's"

    run(course)


def test_adapters_are_on_the_disk_before_their_trial_has_finished(run, tmp_path, monkeypatch):
    synced = set()
    fsync = os.fsync

    def note_fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_fsync)

    async def course(actor):
        await actor.expect([Expected("er", JOB, None)], None)
        await actor.claim("host-0", "x", [], 1)
        files = {"head.safetensors": b"head", "task-0/lora.safetensors": b"lora"}
        await actor.finish(TRIAL, "bundle", files)
        folder = tmp_path / "trials" / TRIAL
        written = [folder, *folder.glob("bundle/**/*")]
        assert len(written) == 4
        assert {each.stat().st_ino for each in written} <= synced

    run(course)


def test_a_trial_that_two_hosts_hand_over_has_the_bundle_of_the_first(run, tmp_path):
    async def course(actor):
        await learn_all(actor, "host-0")
        await actor.lose("host-0", "nothing heard of it", False)
        assert (await actor.claim("host-1", "x", [], 2)).trial == TRIAL
        both = [actor.finish(TRIAL, "bundle", {"head": each}) for each in (b"0", b"1")]
        await asyncio.gather(*both)
        assert (tmp_path / "trials" / TRIAL / "bundle" / "head").read_bytes() == b"0"

    run(course)


@pytest.fixture
def full_disk():
    """While within, no file may grow: the system refuses what is written, as a full disk does."""

    @contextmanager
    def full():
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            signal.signal(signal.SIGXFSZ, before)

    return full


@pytest.mark.parametrize("what", ["a checkpoint", "an adapter", "the ledger"])
def test_a_full_disk_ends_the_sweep_for_whoever_waits_and_with_room_it_goes_on(
    tmp_path, full_disk, killed, what
):
    async def course():
        actor = started(tmp_path)
        await actor.expect([Expected("er", JOB, None)], None)
        await actor.claim("host-0", "x", [], 1)
        waiting = asyncio.create_task(actor.wait(TRIAL, 1))
        await asyncio.sleep(0)
        await actor.report(TRIAL, "host-0", report_of(0), {"rest": b"0"})
        large = {"rest": b"1" * 1000}
        call = {
            "a checkpoint": lambda: actor.report(TRIAL, "host-0", report_of(1), large),
            "an adapter": lambda: actor.finish(TRIAL, "bundle", large),
            "the ledger": lambda: actor.fail(TRIAL, "broken " * 100_000),
        }[what]
        with full_disk():
            for each in (call(), waiting, actor.claim("host-1", "x", [], 1)):
                with pytest.raises(OSError, match=r"too large|full|I/O") as error:
                    await each
                assert disk_fault(error.value) is not None
        actor = killed(actor, session="two")
        assert [each["task"] for each in await actor.reports(TRIAL)] == [0]
        await actor.expect([Expected("er", JOB, None)], None)
        actor._store.resume(TRIAL)
        claim = await actor.claim("host-0", "y", [], 1)
        assert actor._store.last_boundary(claim.trial) == Boundary(TRIAL, 0)
        assert not list(tmp_path.rglob("*.part"))
        await actor.close("finished")
        actor._store.close()

    asyncio.run(course())
