"""Task arithmetic: its losses, state and answers against naive versions."""

import torch

from lamina.adapters.kinds.lora import modules_of
from merging_cases import merged_of, trained_vectors


def test_task_arithmetic_of_loras_is_the_weighted_sum_of_their_products(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors("task_arithmetic", nouns, tiny_bert, weight=0.3)
    merged = merged_of(learner)
    for module in modules_of(origin):
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        naive = sum(0.3 * (each[b] + origin[b]) @ (each[a] + origin[a]) for each in vectors)
        torch.testing.assert_close(merged[b] @ merged[a], naive, atol=1e-6, rtol=1e-4)
        assert merged[a].shape[0] == 3 * 8


def test_task_arithmetic_of_other_kinds_is_the_weighted_sum_of_vectors(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors(
        "task_arithmetic", nouns, tiny_bert, weight=0.3, adapter="bottleneck"
    )
    for name, tensor in merged_of(learner).items():
        naive = origin[name] + 0.3 * sum(each[name] for each in vectors)
        torch.testing.assert_close(tensor, naive, atol=1e-6, rtol=1e-5)
