"""What several files of adapters tests share."""

import torch

from lamina.core import generator_of
from nouns import make_learner

ROWS = 10


def disturb(*names, model, size=0.05):
    """Move adapters away from where they are, so that nothing is zero by chance."""
    for name in names:
        for key, tensor in model.adapters[name].tensors.items():
            noise = torch.randn(tensor.shape, generator=generator_of(0, name, key))
            with torch.no_grad():
                tensor += size * noise


def finished(name, stream, backbone, **settings):
    """A learner after the whole stream."""
    learner = make_learner(name, stream, backbone, **settings)
    list(learner.learn())
    return learner


def copies(model, name):
    """What an adapter holds now."""
    return {key: tensor.detach().clone() for key, tensor in model.adapters[name].tensors.items()}


def same(first, second):
    """Whether two sets of tensors are equal bit by bit."""
    return all(torch.equal(first[key], second[key]) for key in first)
