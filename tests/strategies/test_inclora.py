"""IncLoRA: its losses, state and answers against naive versions."""

import pytest
import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from lamina.core import generator_of
from nouns import NO_REPLAY, after, logits_of, make_learner


def learn_on(learner, data):
    learner.descend(learner.stream.experiences[learner.next_task].task, data)


def test_inclora_adds_a_new_lora_to_the_frozen_sum_of_the_earlier_ones(nouns, tiny_bert):
    learner, data = after(2, "inclora", nouns, tiny_bert)
    model = learner.model
    assert model.active == ["task_0", "task_1", "task_2"]
    assert {name.split(".")[0] for name in model.parameters()} == {"head", "task_2"}
    past = {
        (n, k): v.clone() for n in model.active[:2] for k, v in model.adapters[n].tensors.items()
    }
    learn_on(learner, data)
    assert all(torch.equal(v, model.adapters[n].tensors[k]) for (n, k), v in past.items())
    module = "encoder.layer.0.attention.self.query"
    sites = model.overlay().patches
    (patches,) = [value for site, value in sites.items() if site.write == module]
    x = torch.randn(1, 5, tiny_bert.dim, generator=generator_of(0, "x"))
    naive = torch.zeros(1, 5, tiny_bert.dim)
    for name in model.active:
        tensors = model.adapters[name].tensors
        b, a = tensors[f"{module}.lora_B.weight"], tensors[f"{module}.lora_A.weight"]
        naive = naive + 2.0 * x @ (b @ a).T
    update = torch.zeros_like(naive)
    for patch in patches:
        update = patch(x, update)
    torch.testing.assert_close(update, naive)


def test_inclora_is_olora_without_its_constraint(nouns, tiny_bert):
    inclora = make_learner("inclora", nouns, tiny_bert)
    olora = make_learner("olora", nouns, tiny_bert, orthogonality=0.0)
    ours, theirs = ([r.metrics["train/loss"] for r in each.learn()] for each in (inclora, olora))
    assert ours == pytest.approx(theirs, abs=1e-4)


def test_inclora_cross_entropy_leaves_old_rows_of_the_head_alone(nouns, tiny_bert):
    learner, data = after(1, "inclora", nouns, tiny_bert)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    naive = F.cross_entropy(logits_of(learner, data)[:, 2:4], data.labels - 2)
    torch.testing.assert_close(loss, naive)
    bias = learner.model.adapters[HEAD].tensors["bias"]
    assert not torch.autograd.grad(loss, bias)[0][:2].any()
