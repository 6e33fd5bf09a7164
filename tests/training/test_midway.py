"""A learner that is taken up within a task goes on to the same bytes."""

import pytest
import torch

from lamina.training.settings import TrainingSettings
from nouns import as_scenario, make_learner
from resuming import checkpoints_of, goes_on

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
        "cl_lora",
        "gainlora",
    ),
]
"""With a replay memory, with what its steps sum up, with a teacher, with reference gradients, with
averages of its weights, with tensors of an adapter that are fixed, with several phases, with gates
that are trained."""
LONG = TrainingSettings(epochs=3, batch_size=4, learning_rate=1e-2, schedule="linear")


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_learner_goes_on_from_within_a_task_bit_equal(nouns, tiny_bert, name):
    goes_on(lambda: make_learner(name, nouns, tiny_bert, training=LONG), every=5)


@pytest.mark.parametrize(("scenario", "name"), [("task_free", "er"), ("joint", "joint")])
def test_a_stream_that_passes_once_and_one_of_a_single_task_go_on_within_it(
    nouns, tiny_bert, scenario, name
):
    stream = as_scenario(nouns, scenario)
    goes_on(lambda: make_learner(name, stream, tiny_bert, training=LONG), every=3)


def test_who_asks_for_no_checkpoints_is_asked_for_none(nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert)
    found, _ = checkpoints_of(learner, None)
    assert found == []
    assert learner.state_dict()["midway"] is None
    assert torch.is_tensor(learner.model.adapters["head"].tensors["weight"])
