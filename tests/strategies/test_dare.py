"""DARE: its losses, state and answers against naive versions."""

import torch

from lamina.adapters.kinds.lora import modules_of
from lamina.core import generator_of
from merging_cases import merged_of, trained_vectors


def test_dare_of_loras_drops_entries_of_their_products(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors("dare", nouns, tiny_bert, drop_rate=0.6, weight=0.5)
    modules = modules_of(origin)
    naive = {module: 0.0 for module in modules}
    for task, vector in enumerate(vectors):
        generator = generator_of(0, "dare", task)
        for module in modules:
            a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
            update = (vector[b] + origin[b]) @ (vector[a] + origin[a])
            mask = torch.bernoulli(torch.full(update.shape, 0.4), generator=generator)
            naive[module] += 0.5 * mask * update / 0.4
    merged = merged_of(learner)
    for module in modules:
        update = merged[f"{module}.lora_B.weight"] @ merged[f"{module}.lora_A.weight"]
        torch.testing.assert_close(update, naive[module], atol=1e-6, rtol=1e-4)


def test_dare_of_loras_that_drops_nothing_is_task_arithmetic(nouns, tiny_bert):
    dare, origin, _ = trained_vectors("dare", nouns, tiny_bert, drop_rate=0.0, weight=0.3)
    exact, _, _ = trained_vectors("task_arithmetic", nouns, tiny_bert, weight=0.3)
    ours, theirs = merged_of(dare), merged_of(exact)
    for module in modules_of(origin):
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        torch.testing.assert_close(ours[b] @ ours[a], theirs[b] @ theirs[a], atol=1e-6, rtol=1e-4)
    inputs = nouns.experiences[0].test.inputs
    answers = [each.strategy.predict(each.model, inputs, None) for each in (dare, exact)]
    torch.testing.assert_close(*answers, atol=1e-4, rtol=1e-4)


def test_dare_drops_by_the_tasks_named_seed_and_sums(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors(
        "dare", nouns, tiny_bert, drop_rate=0.6, weight=0.5, adapter="bottleneck"
    )
    naive = {name: tensor.clone() for name, tensor in origin.items()}
    for task, vector in enumerate(vectors):
        generator = generator_of(0, "dare", task)
        for name, tensor in vector.items():
            mask = torch.bernoulli(torch.full(tensor.shape, 0.4), generator=generator)
            naive[name] += 0.5 * mask * tensor / 0.4
    for name, tensor in merged_of(learner).items():
        torch.testing.assert_close(tensor, naive[name], atol=1e-5, rtol=1e-4)


def test_dare_that_drops_nothing_sums_the_vectors_and_more_dropping_moves_it(nouns, tiny_bert):
    kind = {"adapter": "bottleneck", "weight": 0.5}
    learner, origin, vectors = trained_vectors("dare", nouns, tiny_bert, drop_rate=0.0, **kind)
    other, _, _ = trained_vectors("dare", nouns, tiny_bert, drop_rate=0.5, **kind)
    for name, tensor in merged_of(learner).items():
        naive = origin[name] + 0.5 * sum(each[name] for each in vectors)
        torch.testing.assert_close(tensor, naive, atol=1e-6, rtol=1e-5)
        assert (merged_of(other)[name] - tensor).abs().max() > 1e-3
