"""Online-LoRA: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters import kind_class
from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.core import Batch, generator_of
from lamina.strategies.online_lora import PAST, OnlineLoRA
from lamina.training.workers import added
from nouns import NO_REPLAY, after, logits_of
from online_lora_cases import seen, tensors_of, trained_on


def online(backbone, **settings):
    model = AdaptedModel(backbone, kind_class("lora")(), 0)
    model.grow_head(4)
    strategy = OnlineLoRA(**settings)
    strategy.setup(model)
    return strategy, model


def test_online_lora_adds_the_hard_rows_and_the_importance_of_what_is_trained(nouns, tiny_bert):
    learner, data = after(1, "online_lora", nouns, tiny_bert, strength=30.0, hard_size=3)
    strategy, model = learner.strategy, learner.model
    generator = generator_of(0, "importance")
    main = model.adapters[MAIN].tensors
    importance = {k: torch.rand(v.shape, generator=generator) for k, v in main.items()}
    strategy.state["importance"] = importance
    hard = strategy.state["hard"]
    assert len(hard["label"]) == 3
    inputs = {k.removeprefix("input."): v for k, v in hard.items() if k.startswith("input.")}
    rows = Batch(inputs, hard["label"], torch.arange(3)).trimmed()
    penalty = sum((importance[k] * v.detach() ** 2).sum() for k, v in main.items())
    naive = (
        F.cross_entropy(logits_of(learner, data), data.labels)
        + F.cross_entropy(logits_of(learner, rows), rows.labels)
        + 30.0 / 2 * penalty
    )
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_online_lora_keeps_the_rows_of_highest_loss_of_batch_and_kept(tiny_bert):
    strategy, model = online(tiny_bert, hard_size=2, mean_threshold=0.0)
    strategy.after_step(model, seen([3.0, 1.0, 2.0]))
    assert strategy.state["hard"]["input.input_ids"][:, 0].tolist() == [30, 20]
    strategy.after_step(model, seen([2.5, 0.5], hard=(0.1, 2.7)))
    assert strategy.state["hard"]["input.input_ids"][:, 0].tolist() == [20, 25]


def test_online_lora_merges_where_the_loss_settles_and_again_only_after_a_peak(tiny_bert):
    strategy, model = online(tiny_bert, window=3, mean_threshold=1.0, variance_threshold=0.05)
    merges = []
    for loss in [4.0, 0.9, 0.8, 0.85, 0.8, 0.8, 3.0, 3.0, 0.7, 0.6, 0.6, 0.6]:
        strategy.after_step(model, seen([loss, loss], hard=(0.0,) if merges else ()))
        merges.append(strategy.state["num_merges"])
    assert merges == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2]


def test_online_lora_merge_adds_the_product_and_begins_with_a_live_gradient(nouns, tiny_bert):
    learner, data = after(1, "online_lora", nouns, tiny_bert, mean_threshold=0.0)
    strategy, model = learner.strategy, learner.model
    assert strategy.state["num_merges"] == 0
    old, before = tensors_of(learner, MAIN), model(data.inputs).logits.detach()
    leaves = {k: id(v) for k, v in model.adapters[MAIN].tensors.items()}
    for number in (1, 2):
        strategy._renew(model)
        torch.testing.assert_close(model(data.inputs).logits, before, atol=1e-6, rtol=0)
        assert model.active == [PAST, MAIN]
        assert {k: id(v) for k, v in model.adapters[MAIN].tensors.items()} == leaves
        past, main = tensors_of(learner, PAST), tensors_of(learner, MAIN)
        for module in modules_of(main):
            a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
            torch.testing.assert_close(past[b] @ past[a], old[b] @ old[a])
            assert past[a].shape[0] == number * 8
            assert main[a].abs().max() > 0.01
            assert not main[b].any()
    loss = F.cross_entropy(model(data.inputs).logits, data.labels)
    b = [v for k, v in model.adapters[MAIN].tensors.items() if "lora_B" in k]
    assert all(gradient.abs().max() > 0 for gradient in torch.autograd.grad(loss, b))


def test_online_lora_importance_averages_squared_gradients_of_the_hard_rows(nouns, tiny_bert):
    learner, _ = after(1, "online_lora", nouns, tiny_bert, mean_threshold=0.0)
    strategy, model = learner.strategy, learner.model
    rows = strategy._hard_rows()
    past = {k: torch.full_like(v, 0.3) for k, v in tensors_of(learner, MAIN).items()}
    strategy.state.update(importance=past, num_merges=2)
    names, leaves = zip(*model.adapters[MAIN].tensors.items(), strict=True)
    naive = {name: 2 / 3 * past[name] for name in names}
    for one in rows.chunks(1):
        logits = model(one.inputs).logits
        loss = F.nll_loss(logits.log_softmax(1), logits.argmax(1))
        for name, gradient in zip(names, torch.autograd.grad(loss, leaves), strict=True):
            naive[name] += gradient**2 / len(rows) / 3
    strategy._renew(model)
    for name in names:
        torch.testing.assert_close(
            strategy.state["importance"][name], naive[name], atol=1e-7, rtol=1e-3
        )


def test_online_lora_strength_holds_the_new_lora_down(nouns, tiny_bert):
    def size(strength):
        learner, data = after(1, "online_lora", nouns, tiny_bert, strength=strength)
        main = learner.model.adapters[MAIN].tensors
        ones = {k: torch.ones_like(v) for k, v in main.items()}
        learner.strategy.state["importance"] = ones
        learner.strategy.mean_threshold = 0.0
        trained_on(learner, data)
        return sum(v.square().sum().item() for v in main.values())

    assert size(10.0) < 0.9 * size(0.0)


def test_online_lora_without_penalty_or_merges_is_cross_entropy_on_batch_and_hard_rows(
    nouns, tiny_bert
):
    learner, data = after(1, "online_lora", nouns, tiny_bert, strength=0.0, mean_threshold=0.0)
    assert learner.model.active == [MAIN]
    rows = learner.strategy._hard_rows()
    naive = sum(F.cross_entropy(logits_of(learner, x), x.labels) for x in (data, rows))
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


class Two:
    """Two workers that know each other's tensors, in turn."""

    rank, size = 0, 2

    def __init__(self, other):
        self.other = other

    def add(self, tensors):
        return [a + b for a, b in zip(tensors, self.other.sums.values(), strict=True)]

    def gather(self, tensor):
        name = next(k for k, v in self.mine.rows.items() if v is tensor)
        return torch.cat([tensor, self.other.rows[name]])


def test_online_lora_chooses_the_same_hard_rows_whoever_saw_them(nouns, tiny_bert):
    learner, data = after(1, "online_lora", nouns, tiny_bert, mean_threshold=0.0)
    strategy, model = learner.strategy, learner.model
    whole = strategy.step(model, data, NO_REPLAY).seen
    halves = [data[slice(rank, None, 2)].trimmed() for rank in range(2)]
    parts = [strategy.step(model, each, NO_REPLAY).seen for each in halves]
    workers = Two(parts[1])
    workers.mine = parts[0]
    together = added(parts[0], workers)
    before = {k: v.clone() for k, v in strategy.state["hard"].items()}
    window = list(strategy.state["losses"])
    results = []
    for each in (whole, together):
        strategy.state.update(hard=before, losses=window)
        strategy.after_step(model, each)
        hard = strategy.state["hard"]
        results.append((strategy.state["losses"], sorted(hard["input.input_ids"].tolist())))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    assert results[0][1] == results[1][1]
