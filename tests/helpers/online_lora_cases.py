"""What several files of loras online tests share."""

import torch

from lamina.core import Summary


def tensors_of(learner, name):
    return {k: v.detach().clone() for k, v in learner.model.adapters[name].tensors.items()}


def trained_on(learner, data):
    """One more pass over the task under way."""
    learner.descend(learner.stream.experiences[learner.next_task].task, data)
    return learner


def seen(losses, hard=(), label=0, width=3):
    """What a step saw: rows that can be told apart by their first token."""
    own = torch.tensor(losses)
    rows = torch.tensor([[int(10 * x)] + [1] * (width - 1) for x in losses])
    return Summary(
        {
            "total": own.sum(),
            "number": torch.tensor(float(len(losses))),
            "hard": torch.tensor(hard),
            "workers": torch.tensor(1.0),
        },
        {
            "loss": own,
            "label": torch.full((len(losses),), label),
            "input.input_ids": rows,
            "input.attention_mask": torch.ones_like(rows),
        },
    )
