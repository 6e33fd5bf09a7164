"""LAE: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from adapter_cases import ROWS, copies, disturb, finished, same
from lamina.adapters.model import HEAD, MAIN
from lamina.strategies.lae import OFFLINE
from lamina.training.settings import TrainingSettings
from nouns import after, make_learner


def test_lae_moves_the_offline_adapter_by_a_share_of_the_distance(nouns, tiny_bert):
    learner, _ = after(1, "lae", nouns, tiny_bert, momentum=0.9)
    model = learner.model
    assert same(copies(model, OFFLINE), copies(model, MAIN))
    disturb(MAIN, model=model)
    before, online = copies(model, OFFLINE), copies(model, MAIN)
    learner.strategy.after_step(model, None)
    for key, tensor in model.adapters[OFFLINE].tensors.items():
        torch.testing.assert_close(tensor, 0.9 * before[key] + 0.1 * online[key])
    assert not model.adapters[OFFLINE].trainable


def test_lae_answers_with_the_larger_probability_of_its_two_experts(nouns, tiny_bert):
    learner, data = after(1, "lae", nouns, tiny_bert)
    model = learner.model
    disturb(MAIN, model=model, size=0.5)
    head = model.adapters[HEAD].tensors
    online, offline = (
        F.linear(
            tiny_bert(data.inputs, model.overlay([name])).features, head["weight"], head["bias"]
        ).softmax(1)
        for name in (MAIN, OFFLINE)
    )
    answer = learner.strategy.predict(model, data.inputs, None)
    for n in range(ROWS):
        for c in range(4):
            expected = max(online[n, c].item(), offline[n, c].item())
            assert answer[n, c].item() == pytest.approx(expected, abs=1e-5)
    assert (online > offline + 1e-3).any()
    assert (online < offline - 1e-3).any()


def test_lae_warms_up_the_head_before_the_adapter_moves(nouns, tiny_bert):
    learner, _ = after(1, "lae", nouns, tiny_bert, freeze=0.75)
    strategy, model, task = learner.strategy, learner.model, nouns.experiences[1].task
    assert strategy.phases(nouns.experiences[0].task) == (1.0,)
    assert strategy.phases(task) == (0.75, 0.25)
    strategy.begin_phase(model, task, 0)
    assert {name.split(".")[0] for name in model.parameters()} == {HEAD}
    strategy.begin_phase(model, task, 1)
    assert {name.split(".")[0] for name in model.parameters()} == {HEAD, MAIN}
    assert make_learner("lae", nouns, tiny_bert, freeze=0.0).strategy.phases(task) == (1.0,)


def test_lae_momentum_of_nothing_follows_and_of_one_stays_at_the_first_task(nouns, tiny_bert):
    first = make_learner("lae", nouns, tiny_bert)
    next(first.learn())
    stays = finished("lae", nouns, tiny_bert, momentum=1.0)
    assert same(copies(stays.model, OFFLINE), copies(first.model, MAIN))
    follows = finished("lae", nouns, tiny_bert, momentum=0.0)
    assert same(copies(follows.model, OFFLINE), copies(follows.model, MAIN))


@pytest.mark.parametrize("epochs", [2, 10])
def test_lae_keeps_the_same_of_itself_over_a_task_of_any_number_of_steps(epochs, nouns, tiny_bert):
    training = TrainingSettings(epochs=epochs, batch_size=4, learning_rate=1e-2)
    learner = make_learner("lae", nouns, tiny_bert, kept=0.7, training=training)
    reports = learner.learn()
    next(reports)
    steps = 3 * epochs
    assert learner.strategy.state["steps"] == steps
    next(reports)
    assert learner.strategy.state["decay"] ** steps == pytest.approx(0.7)
    assert make_learner("lae", nouns, tiny_bert).strategy.kept == pytest.approx(
        0.9999**1040, abs=0.01
    )
