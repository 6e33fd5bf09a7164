"""ADA: its losses, state and answers against naive versions."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from adapter_cases import ROWS, copies, disturb, finished, same
from lamina.adapters.model import HEAD
from lamina.core import generator_of
from lamina.memory.gaussian import moments
from lamina.strategies.ada import CONSOLIDATED, NEW, TEACHER_HEAD, transrate
from nouns import NO_REPLAY, after, make_learner


def test_ada_transrate_is_the_coding_rate_that_labels_explain():
    rows = torch.randn(30, 6, generator=generator_of(0, "transrate")).double()
    labels = torch.arange(30) % 3
    rows += labels[:, None]
    centred = rows - rows.mean(0)

    def rate(z):
        return 0.5 * torch.logdet(torch.eye(6) + z.T @ z / (len(z) * 1e-4))

    naive = rate(centred) - sum(rate(centred[labels == c]) for c in range(3)) / 3
    torch.testing.assert_close(transrate(moments(rows, labels, 3)), naive, rtol=1e-6, atol=1e-6)


def test_ada_distils_two_centred_teachers_into_one_student(nouns, tiny_bert):
    learner, data = after(2, "ada", nouns, tiny_bert, pool_size=1)
    strategy, model, task = learner.strategy, learner.model, nouns.experiences[2].task
    assert strategy.phases(task) == (1.0, 1.0)
    disturb(NEW, model=model)
    strategy.begin_phase(model, task, 1)
    disturb(CONSOLIDATED, HEAD, model=model)
    assert {name.split(".")[0] for name in model.parameters()} == {HEAD, CONSOLIDATED}

    def logits(adapter, head):
        tensors = model.adapters[head].tensors
        features = tiny_bert(data.inputs, model.overlay([adapter])).features
        return F.linear(features, tensors["weight"], tensors["bias"])

    old, new = logits("pool_0", TEACHER_HEAD)[:, :4], logits(NEW, TEACHER_HEAD)[:, 4:]
    student = logits(CONSOLIDATED, HEAD)
    loss = 0.0
    for n in range(ROWS):
        for c in range(6):
            wanted = old[n, c] - sum(old[n]) / 4 if c < 4 else new[n, c - 4] - sum(new[n]) / 2
            loss += (student[n, c] - wanted) ** 2 / (6 * ROWS)
    torch.testing.assert_close(
        strategy.step(model, data, NO_REPLAY).loss, loss, atol=1e-5, rtol=1e-4
    )


def test_ada_replaces_the_most_related_adapter_of_a_full_pool(nouns, tiny_bert):
    learner, data = after(2, "ada", nouns, tiny_bert, pool_size=2)
    strategy, model = learner.strategy, learner.model
    scores = [
        transrate(moments(model(data.inputs, adapters=[name]).features, data.labels - 4, 2))
        for name in ("pool_0", "pool_1")
    ]
    chosen = int(torch.stack(scores).argmax())
    assert strategy.state["slot"] == chosen
    before = [copies(model, f"pool_{slot}") for slot in range(2)]
    learner = finished("ada", nouns, tiny_bert, pool_size=2)
    kept, replaced = 1 - chosen, chosen
    assert same(before[kept], copies(learner.model, f"pool_{kept}"))
    assert not same(before[replaced], copies(learner.model, f"pool_{replaced}"))
    groups = learner.strategy.state["classes"]
    assert groups[replaced] == [2 * replaced, 2 * replaced + 1, 4, 5]
    assert set(learner.model.adapters) == {HEAD, "pool_0", "pool_1"}
    answer = learner.strategy.predict(learner.model, data.inputs, None)
    for slot, classes in enumerate(groups):
        logits = learner.model(data.inputs, adapters=[f"pool_{slot}"]).logits
        assert torch.equal(answer[:, classes], logits[:, classes])


def test_ada_gives_classes_that_come_again_to_the_adapter_that_learned_them_last(nouns, tiny_bert):
    learner, data = after(1, "ada", nouns, tiny_bert, pool_size=1)
    again = replace(nouns.experiences[1].task, classes=(1, 2))
    strategy, model = learner.strategy, learner.model
    strategy.begin_phase(model, again, 1)
    labels = torch.where(data.labels == 3, 1, data.labels)
    loss = strategy.step(model, replace(data, task=again, labels=labels), NO_REPLAY).loss
    features = model(data.inputs, adapters=[CONSOLIDATED]).features
    wanted = []
    for name, classes in (("pool_0", [0]), (NEW, [1, 2])):
        logits = model(data.inputs, adapters=[name], head=TEACHER_HEAD).logits[:, classes]
        wanted.append(logits - logits.mean(1, keepdim=True))
    student = model.logits(features)[:, :3]
    torch.testing.assert_close(loss, F.mse_loss(student, torch.cat(wanted, dim=1)))
    strategy.end_task(model, again, None)
    assert strategy.state["classes"] == [[0, 1, 2]]


def test_ada_with_room_for_every_task_keeps_each_adapter_as_it_was_learned(nouns, tiny_bert):
    learner = make_learner("ada", nouns, tiny_bert, pool_size=3)
    reports = learner.learn()
    next(reports)
    first = copies(learner.model, "pool_0")
    list(reports)
    assert same(first, copies(learner.model, "pool_0"))
    assert learner.num_steps == 3 * 2 * 3
    assert finished("ada", nouns, tiny_bert, pool_size=1).num_steps == 5 * 2 * 3


def test_ada_longer_distillation_comes_closer_to_the_teachers(nouns, tiny_bert):
    def remains(share):
        learner, data = after(1, "ada", nouns, tiny_bert, pool_size=1, distillation=share)
        learner.descend(nouns.experiences[1].task, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).loss

    assert remains(4.0) < 0.8 * remains(0.5)
