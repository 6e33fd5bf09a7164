"""What several files of classic tests share."""

import torch

from lamina.core import generator_of
from lamina.memory.memory import Replay
from lamina.training.settings import TrainingSettings
from nouns import drift, make_learner

SGD = TrainingSettings(epochs=2, batch_size=4, optimizer="sgd", learning_rate=0.1)


def shaken(learner, size=0.05):
    """Move every trained tensor a little."""
    generator = generator_of(0, "noise")
    with torch.no_grad():
        for value in learner.model.parameters().values():
            value += size * torch.randn(value.shape, generator=generator)


def learn_on(learner, data):
    learner.descend(learner.stream.experiences[learner.next_task].task, data)


def flat(gradients, names):
    return torch.cat([gradients[name].flatten() for name in names])


def replay_of(learner, step=11):
    return Replay(learner.memory, learner.rows, step, "cpu")


def second_task_drift(name, nouns, backbone, **settings):
    """How far the second task moves the tensors that the first left."""
    learner = make_learner(name, nouns, backbone, **settings)
    reports = learner.learn()
    next(reports)
    before = {k: v.detach().clone() for k, v in learner.model.parameters().items()}
    next(reports)
    return drift(learner, before)
