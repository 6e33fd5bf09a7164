"""ACL: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from adapter_cases import copies, finished, same
from lamina.core import Batch
from lamina.memory.memory import Replay
from nouns import NO_REPLAY, after, make_learner


def test_acl_first_phase_calls_exemplars_others(nouns, tiny_bert):
    learner, data = after(1, "acl", nouns, tiny_bert, replay_size=5)
    strategy, model = learner.strategy, learner.model
    strategy.begin_phase(model, nouns.experiences[1].task, 0)
    assert {name.split(".")[0] for name in model.parameters()} == {"task_1", "head_1"}
    replay = Replay(learner.memory, learner.rows, 7, "cpu")
    exemplars = replay.draw(5)
    rows = [(data, data.labels - 2), (exemplars, torch.full((5,), 2))]
    losses = []
    for batch, labels in rows:
        logits = model(batch.inputs, adapters=["task_1"], head="head_1").logits
        assert logits.shape[1] == 3
        losses.append(F.cross_entropy(logits, labels, reduction="none"))
    loss = strategy.step(model, data, replay).loss
    torch.testing.assert_close(loss, torch.cat(losses).mean(), atol=1e-5, rtol=1e-4)


def test_acl_second_phase_sums_over_heads_on_a_balanced_mixture(nouns, tiny_bert):
    learner, data = after(2, "acl", nouns, tiny_bert, replay_size=5)
    strategy, model = learner.strategy, learner.model
    batch = data[slice(0, 3)]
    strategy.begin_phase(model, nouns.experiences[2].task, 1)
    trained = {name.split(".")[0] for name in model.parameters()}
    assert trained == {"head_0", "head_1", "head_2"}
    replay = Replay(learner.memory, learner.rows, 7, "cpu")
    exemplars = replay.draw(5)
    loss = 0.0
    for index in range(3):
        for each, num_classes in ((batch, 2), (exemplars, 4)):
            logits = model(each.inputs, adapters=[f"task_{index}"], head=f"head_{index}").logits
            for n, label in enumerate(each.labels.tolist()):
                place = label - 2 * index if label // 2 == index else 2
                loss -= logits[n].log_softmax(0)[place] / len(each) * num_classes / 6
    torch.testing.assert_close(strategy.step(model, batch, replay).loss, loss, atol=1e-4, rtol=1e-4)


def test_acl_answers_with_the_head_that_doubts_least(nouns, tiny_bert):
    learner = finished("acl", nouns, tiny_bert)
    strategy, model = learner.strategy, learner.model
    data = Batch.cat([each.test for each in nouns.experiences])
    chances = [
        model(data.inputs, adapters=[f"task_{i}"], head=f"head_{i}").logits.softmax(1)
        for i in range(3)
    ]
    route = strategy.route(model, data.inputs)
    answer = strategy.predict(model, data.inputs, None)
    for n in range(len(data)):
        others = [chance[n, 2].item() for chance in chances]
        chosen = others.index(min(others))
        assert route[n] == chosen
        own = slice(2 * chosen, 2 * chosen + 2)
        torch.testing.assert_close(answer[n, own].exp(), chances[chosen][n, :2])
        assert answer[n].isinf().sum() == 4
    told = strategy.predict(model, data.inputs, nouns.experiences[1].task)
    torch.testing.assert_close(told[:, 2:4].exp(), chances[1][:, :2], atol=1e-4, rtol=1e-4)


def test_acl_second_phase_trains_heads_only_and_for_its_share(nouns, tiny_bert):
    learner = make_learner("acl", nouns, tiny_bert, fine_tuning=0.5)
    reports = learner.learn()
    next(reports)
    assert learner.num_steps == 2 * 3
    adapter, head = copies(learner.model, "task_0"), copies(learner.model, "head_0")
    next(reports)
    assert learner.num_steps == 2 * 3 + 3 * 3
    assert same(adapter, copies(learner.model, "task_0"))
    assert not same(head, copies(learner.model, "head_0"))


def test_acl_before_there_are_exemplars_is_cross_entropy_of_the_new_head(nouns, tiny_bert):
    learner, data = after(0, "acl", nouns, tiny_bert)
    strategy, model = learner.strategy, learner.model
    strategy.begin_phase(model, nouns.experiences[0].task, 0)
    logits = model(data.inputs, adapters=["task_0"], head="head_0").logits
    assert logits.shape[1] == 3
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, F.cross_entropy(logits, data.labels))
