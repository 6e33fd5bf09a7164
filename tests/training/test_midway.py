"""A learner that is taken up within a task goes on to the same bytes."""

import pytest
import torch

from lamina.training.checkpoint import pack, unpack
from lamina.training.settings import TrainingSettings
from nouns import as_scenario, make_learner
from two_workers import digest

STRATEGIES = [
    *("finetune", "er", "der_pp", "ewc", "si", "lwf", "agem", "gpm"),
    *(
        "l2p",
        "coda_prompt",
        "i_lora",
        "olora",
        "inflora",
        "dual_lora",
        "mos",
        "slca",
    ),
]
"""With a replay memory, with what its steps sum up, with a teacher, with reference gradients, with
averages of its weights, with tensors of an adapter that are fixed, with several phases."""
LONG = TrainingSettings(epochs=3, batch_size=4, learning_rate=1e-2, schedule="linear")


def checkpoints_of(learner, every):
    """What it would have kept, as bytes, while it learns."""
    found = []
    learner.checkpoint_steps = every
    learner.on_checkpoint = lambda: found.append(pack(learner.state_dict()))
    return found, list(learner.learn())


def goes_on(make, every):
    whole = make()
    found, reports = checkpoints_of(whole, every)
    assert len(found) >= 3
    for content in found[len(found) // 2 : len(found) // 2 + 2]:
        state = unpack(content)
        assert state["midway"]["num_batches"] > 0
        resumed = make()
        resumed.load_state_dict(state)
        again = list(resumed.learn())
        left = reports[state["next_task"] :]
        assert [each.test for each in again] == [each.test for each in left]
        assert [each.metrics.get("train/loss") for each in again] == [
            each.metrics.get("train/loss") for each in left
        ]
        assert digest(resumed) == digest(whole)
        assert resumed.scores.costs.train_flops == whole.scores.costs.train_flops


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_learner_goes_on_from_within_a_task_bit_equal(nouns, tiny_bert, name):
    goes_on(lambda: make_learner(name, nouns, tiny_bert, training=LONG), every=5)


@pytest.mark.parametrize("scenario", ["task_free"])
def test_a_stream_that_passes_once_goes_on_within_it(nouns, tiny_bert, scenario):
    stream = as_scenario(nouns, scenario)
    goes_on(lambda: make_learner("er", stream, tiny_bert, training=LONG), every=3)


def test_who_asks_for_no_checkpoints_is_asked_for_none(nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert)
    found, _ = checkpoints_of(learner, None)
    assert found == []
    assert learner.state_dict()["midway"] is None
    assert torch.is_tensor(learner.model.adapters["head"].tensors["weight"])
