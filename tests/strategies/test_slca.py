"""SLCA: its losses, state and answers against naive versions."""

import numpy as np
import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from lamina.core import generator_of
from lamina.memory.gaussian import Gaussians
from lamina.strategies.slca import ALIGNED, normalised_logits
from nouns import NO_REPLAY, after, drift, logits_of
from prototype_cases import answers, features_of, learned, train


def test_slca_trains_on_the_tasks_own_classes_and_its_adapter_slowly(nouns, tiny_bert):
    learner, data = after(1, "slca", nouns, tiny_bert, slow=0.25)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    own = logits_of(learner, data)[:, 2:4]
    torch.testing.assert_close(loss, F.cross_entropy(own, data.labels - 2))
    stepper = learner.new_stepper(10)
    rates = {
        id(tensor): group["lr"]
        for group in stepper.optimizer.param_groups
        for tensor in group["params"]
    }
    for name, tensor in stepper.parameters.items():
        assert rates[id(tensor)] == (1e-2 if name.startswith("head.") else 2.5e-3)


def test_slca_of_no_rate_leaves_the_adapter_where_it_was(nouns, tiny_bert):
    def moved(slow):
        learner, data = after(0, "slca", nouns, tiny_bert, slow=slow)
        names = [name for name in learner.model.parameters() if not name.startswith(HEAD)]
        before = {name: learner.model.parameters()[name].detach().clone() for name in names}
        train(learner, data)
        return drift(learner, before)

    assert moved(0.0) == 0
    assert 0 < moved(0.1) < moved(1.0)


def test_slca_divides_logits_by_the_mean_norm_over_tasks():
    logits = torch.randn(4, 5, generator=generator_of(0, "logits"))
    groups = [[0, 1], [3], [2, 4]]
    naive = torch.stack(
        [
            row / (sum(sum(row[c] ** 2 for c in group) ** 0.5 for group in groups) / 3)
            for row in logits
        ]
    )
    torch.testing.assert_close(normalised_logits(logits, groups), naive)


def test_slca_aligns_a_copy_of_the_head_on_samples_of_every_class(nouns, tiny_bert):
    settings = {"samples": 16, "epochs": 2, "alignment_rate": 0.1}
    learner, data = after(2, "slca", nouns, tiny_bert, **settings)
    strategy, model = learner.strategy, learner.model
    head = {k: v.detach().clone() for k, v in model.adapters[HEAD].tensors.items()}
    review = learner.summarise(strategy.review, data)
    gaussians = Gaussians(**strategy.state["gaussians"]).pooled(Gaussians.of(review.sums))
    strategy.end_task(model, nouns.experiences[2].task, review)
    assert strategy.state["groups"] == [[0, 1], [2, 3], [4, 5]]
    batches = list(gaussians.batches(2, 16, generator_of(0, "slca", 2)))
    weight, bias = (head[k].clone().requires_grad_() for k in ("weight", "bias"))
    optimizer = torch.optim.SGD([weight, bias], 0.1, 0.9)
    for step, (features, labels) in enumerate(batches):
        logits = features @ weight.T + bias
        norms = [logits[:, 2 * t : 2 * t + 2].norm(dim=1, keepdim=True) for t in range(3)]
        loss = F.cross_entropy(logits / (sum(norms) / 3) / 0.1, labels)
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * step / 12))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    aligned = model.adapters[ALIGNED].tensors
    assert len(batches) == 12
    torch.testing.assert_close(aligned["weight"], weight.detach(), atol=1e-4, rtol=1e-3)
    assert (aligned["weight"] - head["weight"]).abs().max() > 1e-3
    assert all(torch.equal(model.adapters[HEAD].tensors[k], head[k]) for k in head)
    assert not model.adapters[ALIGNED].trainable
    naive = F.linear(features_of(learner, data), aligned["weight"], aligned["bias"])
    torch.testing.assert_close(answers(learner, data), naive)


def test_slca_without_alignment_answers_with_the_head_that_was_trained(nouns, tiny_bert):
    learner = learned("slca", nouns, tiny_bert, epochs=0)
    test = nouns.experiences[0].test
    torch.testing.assert_close(answers(learner, test), logits_of(learner, test))
    other = answers(learned("slca", nouns, tiny_bert), test)
    assert (other - answers(learner, test)).abs().max() > 0.01
