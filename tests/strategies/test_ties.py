"""TIES: its losses, state and answers against naive versions."""

import torch

from lamina.adapters.merging import trim
from merging_cases import merged_of, trained_vectors


def test_ties_elects_signs_over_the_trimmed_vectors_of_all_tasks(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors("ties", nouns, tiny_bert, density=0.3, weight=0.8)
    trimmed = [trim(each, 0.3) for each in vectors]
    for name, tensor in merged_of(learner).items():
        stacked = torch.stack([each[name] for each in trimmed])
        sign = torch.where(stacked.sum(0) < 0, -1.0, 1.0)
        same = (stacked * sign > 0).float()
        mean = (stacked * same).sum(0) / same.sum(0).clamp(min=1)
        torch.testing.assert_close(tensor, origin[name] + 0.8 * mean, atol=1e-6, rtol=1e-5)
