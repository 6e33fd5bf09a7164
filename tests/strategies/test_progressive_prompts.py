"""Progressive Prompts: its losses, state and answers against naive versions."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lamina.backbones.overlay import Overlay
from lamina.strategies import progressive_prompts
from nouns import NO_REPLAY, after, make_learner
from prompt_cases import answers, head_of, task_of


def residual_mlp(tensors):
    """The reparameterisation as torch modules."""
    width, dim = tensors["down.weight"].shape
    mlp = nn.Sequential(nn.Linear(dim, width), nn.ReLU(), nn.Linear(width, dim), nn.LayerNorm(dim))
    names = {"0": "down", "2": "up", "3": "norm"}
    mlp.load_state_dict({k: tensors[names[k[0]] + k[1:]] for k in mlp.state_dict()})
    return lambda prompt: mlp(prompt) + prompt


def test_progressive_prompts_reads_the_newest_prompt_first_through_a_residual_mlp(nouns, tiny_bert):
    learner, data = after(2, "progressive_prompts", nouns, tiny_bert, bottleneck=12)
    model, strategy = learner.model, learner.strategy
    raw = [model.adapters[f"prompt_{k}"].tensors["prompt"] for k in range(3)]
    mlp = residual_mlp(model.adapters[progressive_prompts.MLP].tensors)
    tokens = torch.cat([mlp(raw[2]), raw[1], raw[0]])
    features = tiny_bert(data.inputs, Overlay(prompts=[tokens])).features
    naive = F.cross_entropy(head_of(model, features, "head_2"), data.labels - 4)
    loss = strategy.step(model, data, NO_REPLAY).loss
    torch.testing.assert_close(loss, naive, atol=1e-5, rtol=1e-4)
    trained = {each.split(".")[0] for each in model.parameters()}
    assert trained == {"prompt_2", progressive_prompts.MLP, "head_2"}


def test_progressive_prompts_start_as_words_of_the_vocabulary(nouns, tiny_bert):
    learner, _ = after(0, "progressive_prompts", nouns, tiny_bert)
    words = tiny_bert.model.get_input_embeddings().weight
    prompt = learner.model.adapters["prompt_0"].tensors["prompt"]
    assert (torch.cdist(prompt, words).min(dim=1).values < 1e-3).all()


def test_progressive_prompts_drop_the_mlp_without_changing_an_answer(nouns, tiny_bert):
    learner, data = after(1, "progressive_prompts", nouns, tiny_bert)
    model, strategy, task = learner.model, learner.strategy, task_of(learner)
    learner.descend(task, data)
    with torch.no_grad():
        before = strategy.predict(model, data.inputs, task)
        strategy.end_task(model, task, None)
        assert progressive_prompts.MLP not in model.adapters
        torch.testing.assert_close(strategy.predict(model, data.inputs, task), before)


def test_progressive_prompts_never_forget_a_task_that_is_told(nouns, tiny_bert):
    stream = replace(nouns, scenario="task_incremental")
    learner = make_learner("progressive_prompts", stream, tiny_bert)
    reports = learner.learn()
    next(reports)
    task = nouns.experiences[0].task
    before = answers(learner, nouns, task)
    last = list(reports)[-1]
    told = answers(learner, nouns, task)
    assert torch.equal(told[:, :2], before[:, :2])
    assert torch.equal(answers(learner, nouns), answers(learner, nouns, nouns.experiences[2].task))
    assert None not in last.test


def test_progressive_prompts_without_a_bottleneck_train_the_prompts_themselves(nouns, tiny_bert):
    def learned(bottleneck):
        learner, data = after(0, "progressive_prompts", nouns, tiny_bert, bottleneck=bottleneck)
        learner.descend(task_of(learner), data)
        learner.strategy.end_task(learner.model, task_of(learner), None)
        return learner.model.adapters["prompt_0"].tensors["prompt"].detach()

    plain = learned(0)
    assert (plain - learned(800)).abs().max() > 0.1
    learner, data = after(0, "progressive_prompts", nouns, tiny_bert, bottleneck=0)
    prompt = learner.model.adapters["prompt_0"].tensors["prompt"]
    features = tiny_bert(data.inputs, Overlay(prompts=[prompt])).features
    naive = F.cross_entropy(head_of(learner.model, features, "head_0"), data.labels)
    torch.testing.assert_close(learner.strategy.step(learner.model, data, NO_REPLAY).loss, naive)
