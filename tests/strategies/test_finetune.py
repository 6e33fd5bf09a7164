"""Finetune: its losses, state and answers against naive versions."""

import torch

from nouns import NO_REPLAY, after, logits_of


def test_finetune_is_cross_entropy_over_all_classes_seen(nouns, tiny_bert):
    learner, data = after(1, "finetune", nouns, tiny_bert)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    logits = logits_of(learner, data)
    naive = -logits.log_softmax(1)[torch.arange(len(data)), data.labels].mean()
    assert logits.shape[1] == 4
    torch.testing.assert_close(loss, naive)
