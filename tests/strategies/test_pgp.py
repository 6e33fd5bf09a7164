"""PGP: its losses, state and answers against naive versions."""

import pytest
import torch

from lamina.adapters.prompt_pool import POOL
from lamina.core import generator_of
from lamina.strategies.pgp import gram_of_sums
from nouns import after, make_learner
from recent_prompt_cases import learned


def test_pgp_sums_every_token_of_an_input_with_every_token_of_its_prompts():
    generator = generator_of(0)
    tokens = torch.randn(3, 4, 5, generator=generator)
    prompts = torch.randn(3, 2, 5, generator=generator)
    mask = torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
    naive = torch.zeros(5, 5)
    for n in range(3):
        for i in range(4):
            for j in range(2):
                s = tokens[n, i] + prompts[n, j]
                naive += mask[n, i] * torch.outer(s, s)
    torch.testing.assert_close(gram_of_sums(tokens, prompts, mask), naive)


def test_pgp_reads_the_prompts_where_the_first_attention_does(shapes, tiny_vit):
    learner, data = after(0, "pgp", shapes, tiny_vit, pool_size=3, top_k=2, length=2)
    model, strategy = learner.model, learner.strategy
    picked = torch.tensor([[0, 2]] * len(data))
    prompts = model.adapters[POOL].tensors["prompts"]
    tokens = strategy.tokens(model, data.inputs, picked)
    norm = tiny_vit.model.layers[0].layernorm_before
    own = torch.cat([prompts[0], prompts[2]])
    torch.testing.assert_close(tokens[0, 1:5], norm(own))
    with torch.no_grad():
        embedded = norm(tiny_vit.model.embeddings(data.inputs["pixel_values"]))
    torch.testing.assert_close(tokens[:, 0], embedded[:, 0])
    torch.testing.assert_close(tokens[:, 5:], embedded[:, 1:])


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_pgp_gradients_have_no_part_in_the_leading_directions_of_the_past(share, nouns, tiny_bert):
    learner, _ = after(1, "pgp", nouns, tiny_bert, prompts=share, keys=share)
    review = learner.summarise(learner.strategy.review, nouns.experiences[0].train)
    for name in ("prompts", "keys"):
        values, vectors = torch.linalg.eigh(review[name].double())
        most = {"prompts": 9, "keys": 5}[name]
        energies, vectors = values.flip(0)[:most].square(), vectors.flip(1).float()
        k = int((energies.cumsum(0) < share * energies.sum()).sum()) + 1
        shape = (10, 5, 32) if name == "prompts" else (10, 32)
        gradient = torch.randn(shape, generator=generator_of(3))
        gradients = {f"pool.{each}": torch.zeros(1, 32) for each in ("prompts", "keys")}
        gradients[f"pool.{name}"] = gradient
        left = learner.strategy.adjust(learner.model, gradients, [])[f"pool.{name}"]
        naive = gradient - gradient @ vectors[:, :k] @ vectors[:, :k].T
        torch.testing.assert_close(left, naive, atol=1e-4, rtol=1e-4)


def test_pgp_takes_a_few_leading_directions_of_each_task(nouns, tiny_bert):
    learner = make_learner("pgp", nouns, tiny_bert, prompts=1.0, keys=1.0)
    for number, _ in enumerate(learner.learn(), start=1):
        for name, most in (("prompts", 9), ("keys", 5)):
            taken = learner.strategy.state["taken"][name]
            width = taken["basis"].shape[1]
            width = 32 - width if taken["is_complement"] else width
            assert 0 < width <= number * most


def test_pgp_of_no_energy_is_l2p_and_with_energy_its_gradients_lose_the_taken_directions(
    nouns, tiny_bert
):
    def run(name, **settings):
        learner, data = after(1, name, nouns, tiny_bert, **settings)
        return learner, learned(learner, data).model.adapters[POOL].tensors

    _, l2p = run("l2p")
    _, free = run("pgp", prompts=0.0, keys=0.0)
    assert all(torch.equal(l2p[name], free[name]) for name in l2p)
    learner, held = run("pgp", prompts=1.0, keys=1.0)
    assert not any(torch.equal(held[name], free[name]) for name in ("prompts", "keys"))
    generator = torch.Generator().manual_seed(0)
    for name in ("prompts", "keys"):
        gradients = {
            f"{POOL}.{each}": torch.randn(tensor.shape, generator=generator)
            for each, tensor in held.items()
        }
        left = learner.strategy.adjust(learner.model, gradients, [])[f"{POOL}.{name}"]
        assert left.norm() < 0.99 * gradients[f"{POOL}.{name}"].norm()
