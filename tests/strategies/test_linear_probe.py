"""Linear probe: its losses, state and answers against naive versions."""

import torch

from lamina.adapters.model import HEAD
from nouns import NO_REPLAY, after, make_learner


def test_linear_probe_is_a_softmax_regression_on_frozen_features(nouns, tiny_bert):
    learner, data = after(1, "linear_probe", nouns, tiny_bert)
    head = learner.model.adapters[HEAD].tensors
    logits = tiny_bert(data.inputs).features @ head["weight"].T + head["bias"]
    naive = -logits.log_softmax(1)[torch.arange(len(data)), data.labels].mean()
    torch.testing.assert_close(learner.strategy.step(learner.model, data, NO_REPLAY).loss, naive)
    assert set(learner.model.parameters()) == {"head.weight", "head.bias"}


def test_linear_probe_is_finetune_without_an_adapter(nouns, tiny_bert):
    probe = make_learner("linear_probe", nouns, tiny_bert)
    finetune = make_learner("finetune", nouns, tiny_bert, adapter=None)
    assert [r.test for r in probe.learn()] == [r.test for r in finetune.learn()]
    for name, value in probe.model.parameters().items():
        torch.testing.assert_close(value, finetune.model.parameters()[name])
