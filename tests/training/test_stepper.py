"""One step of the optimiser: which rows decay."""

import pytest
import torch

from lamina.adapters.model import HEAD
from lamina.core import StepOutput
from lamina.losses import cross_entropy
from lamina.training.checkpoint import pack, unpack
from lamina.training.settings import TrainingSettings
from nouns import as_scenario, make_learner

OPTIMIZERS = ["adamw", "adam", "sgd"]


def decaying(optimizer, **more):
    """Settings under which what decays is seen."""
    return TrainingSettings(
        epochs=2, batch_size=4, learning_rate=1e-2, optimizer=optimizer, weight_decay=0.5, **more
    )


def head_of(learner):
    return {k: each.detach().clone() for k, each in learner.model.adapters[HEAD].tensors.items()}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["olora", "inclora"])
def test_rows_of_old_classes_do_not_decay_where_the_loss_masks_them(
    name, optimizer, nouns, tiny_bert
):
    learner = make_learner(name, nouns, tiny_bert, training=decaying(optimizer))
    reports = learner.learn()
    next(reports)
    old = head_of(learner)
    next(reports)
    now = head_of(learner)
    for key, tensor in old.items():
        assert torch.equal(now[key][: len(tensor)], tensor)
        assert not torch.equal(now[key][2:4], tensor[:2])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_rows_that_the_loss_reaches_decay_as_in_pytorch(optimizer, nouns, tiny_bert):
    """Also those whose gradient is zero again after the first step."""
    settings = decaying(optimizer, momentum=0.9)
    learner = make_learner("linear_probe", nouns, tiny_bert, training=settings)
    seen = []

    def step(model, batch, replay):
        classes = (0, 1) if not seen else (0,)
        seen.append(batch)
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels * 0, classes))

    learner.strategy.step = step
    learner.model.grow_head(2)
    head = head_of(learner)
    next(learner.learn())
    linear = torch.nn.Linear(tiny_bert.dim, 2)
    linear.load_state_dict(head)
    makers = {
        "adamw": lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.5),
        "adam": lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.5),
        "sgd": lambda p: torch.optim.SGD(p, 1e-2, 0.9, weight_decay=0.5),
    }
    plain = makers[optimizer](linear.parameters())
    for at, batch in enumerate(seen):
        plain.zero_grad()
        logits = linear(tiny_bert(batch.inputs).features)
        cross_entropy(logits, batch.labels * 0, (0, 1) if at == 0 else (0,)).backward()
        plain.step()
    torch.testing.assert_close(head_of(learner), dict(linear.state_dict()), atol=1e-5, rtol=0)


def test_which_rows_were_reached_is_part_of_a_checkpoint(nouns, tiny_bert):
    stream = as_scenario(nouns, "task_free")
    learner = make_learner("er_ace", stream, tiny_bert, training=decaying("adamw"))
    reports = learner.learn()
    next(reports)
    state = pack(learner.state_dict())
    assert not all(each.all() for each in unpack(state)["stepper"]["unreached"].values())
    resumed = make_learner("er_ace", stream, tiny_bert, training=decaying("adamw"))
    resumed.load_state_dict(unpack(state))
    list(reports)
    list(resumed.learn())
    for key, tensor in head_of(learner).items():
        assert torch.equal(head_of(resumed)[key], tensor)
