"""ER: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.memory.memory import Replay
from lamina.training.settings import TrainingSettings
from nouns import after, logits_of, make_learner


def test_er_is_cross_entropy_on_the_union_of_batch_and_exemplars(nouns, tiny_bert):
    learner, data = after(1, "er", nouns, tiny_bert, replay_size=5)
    replay = Replay(learner.memory, learner.rows, 11, "cpu")
    loss = learner.strategy.step(learner.model, data, replay).loss
    exemplars = replay.draw(5)
    assert len(exemplars) == 5
    assert set(exemplars.ids.tolist()) <= set(nouns.experiences[0].train.ids.tolist())
    naive = sum(
        F.cross_entropy(logits_of(learner, part), part.labels, reduction="sum")
        for part in (data, exemplars)
    ) / (len(data) + 5)
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-5)


def test_er_without_exemplars_is_finetune_and_with_them_remembers_more(minilm_nouns, minilm):
    training = TrainingSettings(epochs=6, batch_size=4, learning_rate=5e-3)

    def final(name, **settings):
        learner = make_learner(name, minilm_nouns, minilm, training=training, **settings)
        return list(learner.learn())[-1].metrics["test/average_accuracy"]

    assert final("er", replay_size=0) == final("finetune")
    assert final("er", replay_size=4) > final("finetune") + 0.2
