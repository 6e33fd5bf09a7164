"""ER-ACE: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from classic_cases import replay_of, second_task_drift
from nouns import after, logits_of


def test_er_ace_weighs_new_rows_among_their_own_classes_and_exemplars_among_all(nouns, tiny_bert):
    learner, data = after(2, "er_ace", nouns, tiny_bert, replay_size=5)
    exemplars = replay_of(learner).draw(5)
    batch = data[:5]
    naive = torch.zeros(())
    present = sorted(set(batch.labels.tolist()))
    for row, label in zip(logits_of(learner, batch), batch.labels.tolist(), strict=True):
        own = torch.stack([row[c] for c in present])
        naive = naive + (own.exp().sum().log() - row[label]) / len(batch)
    for row, label in zip(logits_of(learner, exemplars), exemplars.labels.tolist(), strict=True):
        naive = naive + (row.exp().sum().log() - row[label]) / 5
    loss = learner.strategy.step(learner.model, batch, replay_of(learner)).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-5)


def test_er_ace_does_not_push_the_old_rows_of_the_head_with_new_rows(nouns, tiny_bert):
    def pushed(name):
        learner, data = after(1, name, nouns, tiny_bert, replay_size=0)
        loss = learner.strategy.step(learner.model, data, replay_of(learner)).loss
        learner.strategy.replay_size = 4
        exemplars = replay_of(learner).draw(4)
        replayed = F.cross_entropy(logits_of(learner, exemplars), exemplars.labels)
        if name == "er_ace":
            loss = learner.strategy.step(learner.model, data, replay_of(learner)).loss - replayed
        head = learner.model.adapters["head"].tensors["bias"]
        return torch.autograd.grad(loss, head)[0][:2].abs().sum()

    assert pushed("er") > 0.01
    assert pushed("er_ace") < 1e-6


def test_er_ace_without_exemplars_is_finetune(nouns, tiny_bert):
    free = second_task_drift("finetune", nouns, tiny_bert)
    assert second_task_drift("er_ace", nouns, tiny_bert, replay_size=0) == free
    assert second_task_drift("er_ace", nouns, tiny_bert, replay_size=4) != free
