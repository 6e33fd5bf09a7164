"""What several files of loras tests share."""

from copy import deepcopy

import torch
import torch.nn.functional as F

from lamina.core import generator_of

SCALE_OF_LORA = 2.0
"""alpha / rank of the default LoRA."""


def a_of(tensors, module):
    return tensors[f"{module}.lora_A.weight"]


def b_of(tensors, module):
    return tensors[f"{module}.lora_B.weight"]


def descend(learner, data):
    learner.descend(learner.stream.experiences[learner.next_task].task, data)


def merged_features(backbone, inputs, updates):
    """Features of a copy of the backbone whose weights are changed: no LoRA anywhere."""
    changed = deepcopy(backbone)
    for module, update in updates.items():
        changed.model.get_submodule(module).weight.data += update.detach()
    return changed(inputs).features


def task_loss(logits, data, first=2):
    """Cross-entropy over the two classes from `first`."""
    return F.cross_entropy(logits[:, first : first + 2], data.labels - first)


def shaken(learner, size=0.05):
    """Noise on all that is trained, so that nothing is zero by chance."""
    with torch.no_grad():
        for name, value in learner.model.parameters().items():
            value += size * torch.randn(value.shape, generator=generator_of(0, "noise", name))
