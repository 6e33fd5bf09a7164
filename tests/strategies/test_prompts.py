"""Prompt methods, each against a naive version written from its paper's equations."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lamina.adapters.alignment import refit_head
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.prompting import layers_in, orthonormal
from lamina.core import Batch, generator_of
from lamina.memory.gaussian import Gaussians, moments
from nouns import NO_REPLAY, after, make_learner
from prompt_cases import answers

PROMPT_METHODS = ["l2p", "dualprompt", "coda_prompt", "s_prompts", "hide_prompt", "epi"]


@pytest.mark.parametrize("name", PROMPT_METHODS)
def test_it_runs_on_a_vision_transformer_and_every_trained_tensor_learns(name, shapes, tiny_vit):
    learner, data = after(1, name, shapes, tiny_vit, adapter="prompt")
    model, strategy = learner.model, learner.strategy
    if name == "hide_prompt":
        strategy.begin_phase(model, data.task, 1)
    loss = strategy.step(model, data, NO_REPLAY).loss
    gradients = torch.autograd.grad(loss, list(model.parameters().values()))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    learner.descend(data.task, data)
    learner.strategy.end_task(model, data.task, learner.summarise(strategy.review, data))
    pixels = shapes.experiences[0].test.inputs["pixel_values"]
    with torch.no_grad():
        together = strategy.predict(model, {"pixel_values": pixels}, None)
        alone = strategy.predict(model, {"pixel_values": pixels[:1]}, None)
    assert together.shape == (4, 4)
    torch.testing.assert_close(together[:1], alone, atol=1e-4, rtol=1e-4)
    if strategy.routes:
        routed = strategy.route(model, {"pixel_values": pixels})
        assert routed.dtype == torch.int64
        assert set(routed.tolist()) <= {0, 1}


@pytest.mark.parametrize(
    ("depth", "general", "expert", "five"),
    [(2, [0], [0], [0]), (6, [0], [1, 2], [0, 1, 2]), (12, [0, 1], [2, 3, 4], [0, 1, 2, 3, 4])],
)
def test_layers_take_the_papers_place_in_any_depth(
    depth, general, expert, five, tiny_bert, monkeypatch
):
    architecture = replace(tiny_bert.architecture, blocks=("block",) * depth)
    monkeypatch.setattr(tiny_bert, "architecture", architecture)
    assert layers_in(tiny_bert, None, range(0, 2), "layers") == general
    assert layers_in(tiny_bert, None, range(2, 5), "layers") == expert
    assert layers_in(tiny_bert, None, range(0, 5), "layers") == five
    assert layers_in(tiny_bert, (-1, 0), range(0, 5), "layers") == [0, depth - 1]


def test_components_that_fill_the_space_are_orthonormal_among_themselves():
    drawn = torch.randn(3, 4, generator=generator_of(0, "drawn"))
    past = torch.eye(4)[:2]
    rows = orthonormal(drawn, past)
    torch.testing.assert_close(rows @ rows.T, torch.eye(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["s_prompts", "epi"])
@pytest.mark.parametrize("adapter", ["prompt", "prefix", "lora", None])
def test_isolated_modules_never_change_after_their_task(name, adapter, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    if adapter != "lora":
        learner = make_learner(name, nouns, tiny_bert, adapter=adapter)
    reports = learner.learn()
    next(reports)
    first = nouns.experiences[0]
    before = answers(learner, nouns, first.task)
    list(reports)
    told = answers(learner, nouns, first.task)
    assert torch.equal(told[:, :2], before[:, :2])
    assert torch.equal(told[:, 2:], torch.full((8, 4), float("-inf")))
    assert {each.split(".")[0].rsplit("_head")[0][-1] for each in learner.model.parameters()} == {
        "2"
    }


@pytest.mark.parametrize("name", ["s_prompts", "epi"])
def test_isolated_modules_answer_the_rows_that_are_routed_to_them(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert)
    list(learner.learn())
    inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
    model, strategy = learner.model, learner.strategy
    with torch.no_grad():
        routed = strategy.route(model, inputs)
        each = [strategy.predict(model, inputs, e.task) for e in nouns.experiences]
        got = strategy.predict(model, inputs, None)
    assert len(routed.unique()) > 1
    expected = torch.stack([each[task][n] for n, task in enumerate(routed)])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["s_prompts", "epi"])
def test_isolated_modules_learn_domains_that_share_classes(name, nouns, tiny_bert):
    """Every domain shows classes 0 and 1; what they look like differs."""
    domains = []
    for each in nouns.experiences:
        task = replace(each.task, classes=(0, 1))
        parts = [
            replace(part, labels=part.labels % 2, task=task)
            for part in (each.train, each.validation, each.test)
        ]
        domains.append(type(each)(task, *parts))
    stream = replace(nouns, scenario="domain_incremental", experiences=tuple(domains))
    learner = make_learner(name, stream, tiny_bert)
    reports = list(learner.learn())
    assert None not in reports[0].test
    first, last = (answers(learner, stream, domains[t].task) for t in (0, 2))
    assert first.shape == (8, 2)
    assert (first - last).abs().max() > 1e-3
    naive_head = learner.model.adapters[f"{'domain' if name == 's_prompts' else 'task'}_0_head"]
    assert len(naive_head.tensors["bias"]) == 2


def test_a_refitted_head_is_sgd_with_a_cosine_on_gaussian_batches(tiny_bert):
    model = AdaptedModel(tiny_bert, None, 0)
    model.grow_head(3)
    features = torch.randn(30, 32, generator=generator_of(0, "rows"))
    gaussians = Gaussians.of(moments(features, torch.arange(30) % 3, 3))
    linear = nn.Linear(32, 3)
    linear.load_state_dict(model.adapters[HEAD].tensors)
    optimizer = torch.optim.SGD(linear.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)
    for rows, labels in gaussians.batches(2, 10, generator_of(3, "x")):
        optimizer.zero_grad()
        F.cross_entropy(linear(rows), labels).backward()
        optimizer.step()
        schedule.step()
    refit_head(model, HEAD, gaussians, generator_of(3, "x"), 2, 0.1, per_class=10)
    for name, value in linear.state_dict().items():
        torch.testing.assert_close(model.adapters[HEAD].tensors[name].detach(), value)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("dualprompt", {"g_length": 0}, "strategy.g_length"),
        ("dualprompt", {"e_layers": (2,)}, "strategy.e_layers"),
        ("dualprompt", {"pull": -0.1}, "strategy.pull"),
        ("coda_prompt", {"length": 3}, "strategy.length"),
        ("coda_prompt", {"components": 0}, "strategy.components"),
        ("coda_prompt", {"components": 33}, "strategy.components"),
        ("coda_prompt", {"orthogonality": -1.0}, "strategy.orthogonality"),
        ("s_prompts", {"centres": 0}, "strategy.centres"),
        ("hide_prompt", {"length": 0}, "strategy.length"),
        ("hide_prompt", {"layers": (-3,)}, "strategy.layers"),
        ("hide_prompt", {"contrast": -0.1}, "strategy.contrast"),
        ("progressive_prompts", {"bottleneck": -1}, "strategy.bottleneck"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
