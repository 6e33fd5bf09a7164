"""L2P: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD
from lamina.adapters.prompt_pool import POOL
from nouns import NO_REPLAY, after


def test_l2p_picks_the_nearest_keys_of_each_input_and_pulls_them(nouns, tiny_bert):
    learner, data = after(0, "l2p", nouns, tiny_bert, pool_size=6, top_k=2, pull=0.3)
    strategy, model = learner.strategy, learner.model
    keys = model.adapters[POOL].tensors["keys"]
    query = tiny_bert(data.inputs).features
    cosine = torch.stack([F.cosine_similarity(query, key[None]) for key in keys], dim=1)
    picked, _ = strategy.pick(model, data.inputs)
    expected = cosine.sort(dim=1, descending=True).indices[:, :2]
    assert torch.equal(picked, expected)
    loss = strategy.step(model, data, NO_REPLAY).loss
    logits = strategy.logits(model, data.inputs, expected)
    plain = F.cross_entropy(logits[:, :2], data.labels)
    pulled = sum(cosine[n, m] for n in range(len(data)) for m in expected[n]) / len(data)
    torch.testing.assert_close(loss, plain - 0.3 * pulled, atol=1e-5, rtol=1e-4)


def test_l2p_pull_draws_keys_to_their_queries(nouns, tiny_bert):
    def similarity(pull):
        learner, data = after(0, "l2p", nouns, tiny_bert, pull=pull)
        learner.descend(learner.stream.experiences[learner.next_task].task, data)
        return learner.strategy.pick(learner.model, data.inputs)[1].mean()

    assert similarity(5.0) > similarity(0.0) + 0.05


def test_l2p_head_reads_the_prompts_and_not_the_words(nouns, tiny_bert):
    learner, data = after(0, "l2p", nouns, tiny_bert)
    hidden = {}
    hook = tiny_bert.model.encoder.register_forward_hook(
        lambda m, a, out: hidden.update(tokens=out.last_hidden_state)
    )
    strategy, model = learner.strategy, learner.model
    picked, _ = strategy.pick(model, data.inputs)
    logits = strategy.logits(model, data.inputs, picked)
    hook.remove()
    prompts = hidden["tokens"][:, : strategy.top_k * strategy.length].mean(1)
    head = model.adapters[HEAD].tensors
    torch.testing.assert_close(logits, F.linear(prompts, head["weight"], head["bias"]))
