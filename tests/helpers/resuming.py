"""Learners that are taken up within a task."""

from lamina.training.checkpoint import pack, unpack
from two_workers import digest


def checkpoints_of(learner, every):
    """What it would have kept, as bytes, while it learns."""
    found = []
    learner.checkpoint_steps = every
    learner.on_checkpoint = lambda: found.append(pack(learner.state_dict()))
    return found, list(learner.learn())


def goes_on(make, every):
    """Assert that who is taken up within a task learns to the same bytes."""
    whole = make()
    found, reports = checkpoints_of(whole, every)
    assert len(found) >= 3
    for content in found[len(found) // 2 : len(found) // 2 + 2]:
        state = unpack(content)
        assert state["midway"]["num_batches"] > 0
        resumed = make()
        resumed.load_state_dict(state)
        again = list(resumed.learn())
        left = [each for each in reports if each.task >= state["next_task"]]
        assert [each.test for each in again] == [each.test for each in left]
        assert [each.metrics.get("train/loss") for each in again] == [
            each.metrics.get("train/loss") for each in left
        ]
        assert digest(resumed) == digest(whole)
        assert resumed.scores.costs.train_flops == whole.scores.costs.train_flops
