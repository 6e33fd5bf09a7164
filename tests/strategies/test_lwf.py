"""LwF: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.core import generator_of
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, logits_of


def test_lwf_adds_the_divergence_of_softened_old_outputs(nouns, tiny_bert):
    learner, data = after(1, "lwf", nouns, tiny_bert, strength=3.0, temperature=2.0)
    teacher = logits_of(learner, data)[:, :2].detach()
    with torch.no_grad():
        for value in learner.model.parameters().values():
            value += 0.05 * torch.randn(value.shape, generator=generator_of(0, "noise"))
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    logits = logits_of(learner, data)
    p, q = (teacher / 2).softmax(1), (logits[:, :2] / 2).softmax(1)
    divergence = 4 * (p * (p / q).log()).sum(1).mean()
    new = F.cross_entropy(logits[:, 2:4], data.labels - 2)
    torch.testing.assert_close(loss, new + 3.0 * divergence, atol=1e-5, rtol=1e-4)


def test_lwf_teacher_stays_and_its_strength_holds_the_old_outputs(minilm_nouns, minilm):
    training = TrainingSettings(epochs=6, batch_size=4, learning_rate=5e-3)

    def run(strength):
        learner, data = after(1, "lwf", minilm_nouns, minilm, strength=strength, training=training)
        before = logits_of(learner, data)[:, :2].detach()
        learner.descend(learner.stream.experiences[learner.next_task].task, data)
        assert not learner.model.adapters["teacher"].trainable
        return (logits_of(learner, data)[:, :2].softmax(1) - before.softmax(1)).abs().mean()

    assert run(100.0) < 0.5 * run(0.0)
