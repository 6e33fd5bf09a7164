"""The store's actor without Ray: what hosts are given before Ray Tune has come to it."""

import asyncio
from functools import partial

import pytest

from lamina.digests import trial_id
from lamina.orchestration.store.actor import StoreActor
from lamina.orchestration.store.shared_store import Expected
from lamina.tracking.trackers import make_tracker
from watched import report_of

JOB = {"seed": 0, "strategy": {"name": "er"}}
TRIAL = trial_id(JOB, None)


@pytest.fixture
def run(tmp_path):
    """Runs a course of events with the actor of a sweep that has a scheduler."""

    async def whole(course):
        tracker = partial(make_tracker, tmp_path, False, None, "small", "small")
        actor = StoreActor(tmp_path, "one", True, tracker)
        await course(actor)
        await actor.close("finished")
        actor._store.close()

    return lambda course: asyncio.run(whole(course))


async def learn(actor, task, num_tasks=4):
    """A host learns a task; returns whether it is to go on with the next."""
    return await actor.report(TRIAL, "host-0", report_of(task, num_tasks), {"rest": b""})


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


def test_what_a_person_has_paused_is_not_queued_by_the_scheduler(run):
    async def course(actor):
        await learn_ahead(actor)
        await actor.act("pause", TRIAL)
        await actor.advance([TRIAL], 3)
        assert actor._store.state(TRIAL) == "paused"

    run(course)
