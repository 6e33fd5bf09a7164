"""What every strategy promises."""

from pathlib import Path

import pytest
import torch

from lamina import strategies
from lamina.strategies import strategy_class, strategy_names
from lamina.training.checkpoint import pack, unpack
from lamina.training.settings import TrainingSettings
from nouns import make_learner

EVERY = strategy_names()


def test_the_first_strategies_are_there():
    wanted = "finetune joint er ewc lwf l2p olora simplecil ranpac"
    assert set(wanted.split()) <= set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_its_file_is_short_and_opens_with_its_card(name):
    path = Path(strategies.__file__).parent / f"{name}.py"
    lines = path.read_text().splitlines()
    assert len(lines) <= 150
    assert lines[0].startswith('"""')
    assert "(" in lines[0]
    assert ":" in lines[0]
    cls = strategy_class(name)
    assert cls.paper
    assert 1990 <= cls.year <= 2026
    assert cls.family


@pytest.mark.parametrize("name", EVERY)
def test_it_learns_the_first_task_above_chance(name, minilm_nouns, minilm):
    training = TrainingSettings(epochs=6, batch_size=4, learning_rate=5e-3)
    learner = make_learner(name, minilm_nouns, minilm, training=training)
    first = next(iter(learner.learn()))
    seen = [value for value in first.test if value is not None]
    chance = 0.5 if len(seen) == 1 else 1 / 6
    assert sum(seen) / len(seen) > chance + 0.2


@pytest.mark.parametrize("name", EVERY)
def test_the_backbone_is_bit_identical_after_it(name, nouns, tiny_bert):
    before = {key: value.clone() for key, value in tiny_bert.model.state_dict().items()}
    list(make_learner(name, nouns, tiny_bert).learn())
    after = tiny_bert.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(parameter.requires_grad for parameter in tiny_bert.model.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_matrix_and_another_seed_another_model(name, nouns, tiny_bert):
    reports = [list(make_learner(name, nouns, tiny_bert).learn()) for _ in range(2)]
    assert [r.test for r in reports[0]] == [r.test for r in reports[1]]
    assert reports[0][-1].metrics.get("train/loss") == reports[1][-1].metrics.get("train/loss")


@pytest.mark.parametrize("name", EVERY)
def test_a_checkpoint_restored_in_mid_stream_goes_on_bit_equal(name, nouns, tiny_bert):
    straight = make_learner(name, nouns, tiny_bert)
    straight_reports = []
    saved = None
    for report in straight.learn():
        straight_reports.append(report)
        if saved is None:
            saved = pack(straight.state_dict())
    resumed = make_learner(name, nouns, tiny_bert)
    resumed.load_state_dict(unpack(saved))
    resumed_reports = list(resumed.learn())
    assert [r.test for r in resumed_reports] == [r.test for r in straight_reports[1:]]
    first, second = straight.state_dict(), resumed.state_dict()
    for each in (first, second):
        for name in ("train_seconds", "evaluation_seconds"):
            each["scores"]["costs"].pop(name)
    assert pack(first) == pack(second)


@pytest.mark.parametrize("name", EVERY)
def test_a_prediction_does_not_depend_on_the_rest_of_its_batch(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    list(learner.learn())
    data = nouns.experiences[1].test
    strategy, model = learner.strategy, learner.model
    with torch.no_grad():
        together = strategy.predict(model, data.inputs, None)
        backwards = strategy.predict(model, data[torch.arange(len(data)).flip(0)].inputs, None)
        alone = torch.cat([strategy.predict(model, one.inputs, None) for one in data.chunks(1)])
    torch.testing.assert_close(together, backwards.flip(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_its_state_is_tensors_and_plain_values(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    list(learner.learn())
    unpack(pack(learner.strategy.state))
