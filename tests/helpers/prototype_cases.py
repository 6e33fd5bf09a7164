"""What several files of prototypes tests share."""

import torch

from lamina.core import Batch
from nouns import make_learner


def learned(name, stream, backbone, **settings):
    """A learner at the end of the stream."""
    learner = make_learner(name, stream, backbone, **settings)
    list(learner.learn())
    return learner


def answers(learner, data):
    with torch.no_grad():
        return learner.strategy.predict(learner.model, data.inputs, None)


def every_train(stream):
    return Batch.cat([each.train for each in stream.experiences])


def features_of(learner, data, adapters=None):
    with torch.no_grad():
        return learner.model(data.inputs, adapters).features


def train(learner, data):
    """The task that `after` began."""
    learner.descend(learner.stream.experiences[learner.next_task].task, data)
