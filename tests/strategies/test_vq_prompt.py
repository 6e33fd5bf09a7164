"""VQ-Prompt: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from lamina.adapters.prompt_pool import POOL
from lamina.backbones.overlay import Overlay
from nouns import NO_REPLAY, after
from recent_prompt_cases import learned, predict


def naive_vq(learner, backbone, data):
    """Mixtures and nearest prompts, per row and layer by loops."""
    pool, tau = learner.model.adapters[POOL].tensors, learner.strategy.temperature
    queries = backbone(data.inputs).features
    mixtures, nearest = [], []
    for query in queries:
        for keys, prompts in zip(pool["keys"], pool["prompts"], strict=True):
            alpha = torch.stack([query @ key / key.norm() / tau for key in keys]).softmax(0)
            mixture = sum(a * p for a, p in zip(alpha, prompts, strict=True))
            index = min(range(len(prompts)), key=lambda m: (prompts[m] - mixture).norm().item())
            mixtures.append(mixture)
            nearest.append(prompts[index])
    shape = (len(data), -1, *pool["prompts"].shape[2:])
    return torch.stack(mixtures).reshape(shape), torch.stack(nearest).reshape(shape)


def test_vq_prompt_lays_the_nearest_prompt_over_and_pays_for_its_distance(nouns, tiny_bert):
    learner, data = after(
        1, "vq_prompt", nouns, tiny_bert, temperature=0.1, quantisation=0.6, commitment=0.3
    )
    model, strategy = learner.model, learner.strategy
    mixtures, nearest = naive_vq(learner, tiny_bert, data)
    layers = strategy.layers_of(model)
    overlay = Overlay(
        prefixes={layer: [(nearest[:, i, :4], nearest[:, i, 4:])] for i, layer in enumerate(layers)}
    )
    logits = model.logits(tiny_bert(data.inputs, overlay).features)
    torch.testing.assert_close(predict(learner, data), logits, atol=1e-5, rtol=1e-4)
    apart = sum(F.mse_loss(mixtures[:, i], nearest[:, i]) for i in range(len(layers)))
    naive = F.cross_entropy(logits[:, 2:4], data.labels - 2) + (0.6 + 0.3) * apart
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)


def test_vq_prompt_keys_learn_from_the_tasks_loss_through_the_choice(nouns, tiny_bert):
    learner, data = after(0, "vq_prompt", nouns, tiny_bert, quantisation=0.0, commitment=0.0)
    loss = learner.strategy.step(learner.model, data, NO_REPLAY).loss
    keys = learner.model.adapters[POOL].tensors["keys"]
    (gradient,) = torch.autograd.grad(loss, keys)
    assert gradient.abs().max() > 0


def test_vq_prompt_weights_draw_mixture_and_prompt_together(nouns, tiny_bert):
    def apart(weight):
        settings = {"quantisation": weight, "commitment": weight}
        learner, data = after(0, "vq_prompt", nouns, tiny_bert, **settings)
        learned(learner, data)
        return learner.strategy.step(learner.model, data, NO_REPLAY).metrics["quantisation"]

    assert apart(20.0) < 0.8 * apart(0.0)


def test_vq_prompt_refits_the_head_on_all_classes_or_leaves_it(nouns, tiny_bert):
    def heads(epochs):
        learner, data = after(1, "vq_prompt", nouns, tiny_bert, alignment_epochs=epochs)
        learned(learner, data)
        before = learner.model.adapters[HEAD].tensors["weight"].detach().clone()
        review = learner.summarise(learner.strategy.review, data)
        learner.strategy.end_task(learner.model, nouns.experiences[1].task, review)
        assert (learner.strategy.state["gaussians"]["count"] == 5).all()
        return before, learner.model.adapters[HEAD].tensors["weight"]

    before, left = heads(0)
    assert torch.equal(before, left)
    before, refitted = heads(3)
    assert ((refitted - before).abs().amax(dim=1) > 1e-3).all()
