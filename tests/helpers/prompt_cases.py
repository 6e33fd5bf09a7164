"""What several files of prompts tests share."""

import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from lamina.core import Batch
from lamina.training.settings import TrainingSettings

HARDER = TrainingSettings(epochs=5, batch_size=5, learning_rate=3e-2)


def task_of(learner):
    """The task that has begun."""
    return learner.stream.experiences[learner.next_task].task


def head_of(model, features, name=HEAD):
    """Logits as nn.Linear gives them."""
    tensors = model.adapters[name].tensors
    return F.linear(features, tensors["weight"], tensors["bias"])


def snapshot(model, *names):
    """Copies of what adapters hold."""
    return {
        (name, key): value.detach().clone()
        for name in names
        for key, value in model.adapters[name].tensors.items()
    }


def answers(learner, stream, task=None):
    """Predictions on the test rows of the first two tasks."""
    inputs = Batch.cat([each.test for each in stream.experiences[:2]]).inputs
    with torch.no_grad():
        return learner.strategy.predict(learner.model, inputs, task)
