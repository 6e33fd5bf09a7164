"""Losses of strategies on answers that are tokens, against naive versions, row by row and token by
token."""

import pytest
import torch
from torch.nn.functional import log_softmax

from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.core import IGNORED
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.der_pp import squared_error
from language_models import calls_stream, write_model
from nouns import NO_REPLAY, make_learner


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A tiny language model and its stream of calls."""
    folder = write_model("llama", tmp_path_factory.mktemp("llama"))
    backbone = load_backbone(BackboneSettings(str(folder)))
    return backbone, calls_stream(backbone)


def after_one(name, llama, **settings):
    """A learner that has learned a task, and has begun the next; with its rows."""
    backbone, stream = llama
    learner = make_learner(name, stream, backbone, **settings)
    next(learner.learn())
    experience = stream.experiences[1]
    preview = learner.summarise(learner.strategy.preview, experience.train)
    learner.strategy.begin_task(learner.model, experience.task, preview)
    return learner, experience.train[slice(0, 6)].trimmed()


def log_likelihood(model, batch, row):
    """log p(y | x) of one row alone: the sum over the tokens of its answer."""
    one = batch[slice(row, row + 1)].trimmed()
    scores = log_softmax(model(one.inputs).logits[0], dim=1)
    return sum(scores[place, token] for place, token in enumerate(one.labels[0].tolist()))


def test_lwf_is_taught_every_token_of_the_vocabulary_as_a_mean_over_those_of_the_answers(llama):
    learner, batch = after_one("lwf", llama, strength=3.0)
    model = learner.model
    with torch.no_grad():
        for tensor in model.adapters["main"].tensors.values():
            tensor.add_(0.1)
        output = learner.strategy.step(model, batch, NO_REPLAY)
        divergences, losses = [], []
        for row in range(len(batch)):
            one = batch[slice(row, row + 1)].trimmed()
            student = model(one.inputs).logits[0]
            teacher = model(one.inputs, adapters=["teacher"]).logits[0]
            for place, token in enumerate(one.labels[0].tolist()):
                taught = log_softmax(teacher[place] / 2.0, dim=0)
                said = log_softmax(student[place] / 2.0, dim=0)
                divergences.append(4.0 * (taught.exp() * (taught - said)).sum())
                losses.append(-log_softmax(student[place], dim=0)[token])
        wanted = torch.stack(losses).mean() + 3.0 * torch.stack(divergences).mean()
    assert torch.stack(divergences).mean() > 1e-3
    torch.testing.assert_close(output.loss, wanted, atol=1e-4, rtol=1e-4)


def test_der_pp_holds_exemplars_to_their_logits_by_what_the_head_reads(llama):
    learner, _ = after_one("der_pp", llama)
    model = learner.model
    dark = learner.memory.draw(6, learner.rows, step=0)
    with torch.no_grad():
        before = model(dark.inputs).logits
        for tensor in model.adapters["main"].tensors.values():
            tensor.add_(0.05)
        now = model(dark.inputs).logits
        counts = dark.labels != IGNORED
        wanted = (now - before)[counts].square().mean()
        torch.testing.assert_close(squared_error(model, dark), wanted, atol=1e-6, rtol=1e-3)
    assert wanted > 1e-4


def test_an_exemplar_of_der_pp_takes_what_its_hidden_states_take(llama):
    learner, _ = after_one("der_pp", llama)
    kept = learner.memory.extras["hidden"]
    longest = learner.stream.experiences[0].train.labels.shape[1]
    assert kept.shape == (len(learner.memory), longest * learner.model.backbone.dim)
    # SmolLM2-135M is 576 wide: 18 tokens of it in 50 KB.
    assert kept.element_size() * 18 * 576 <= 50_000


def test_the_fisher_is_of_the_likelihood_of_whole_answers(llama):
    learner, batch = after_one("ewc", llama)
    model = learner.model
    review = learner.strategy.review(model, batch)
    parameters = model.parameters()
    squares = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    for row in range(len(batch)):
        gradients = torch.autograd.grad(
            log_likelihood(model, batch, row), list(parameters.values())
        )
        for name, gradient in zip(parameters, gradients, strict=True):
            squares[name] += gradient.square()
    for name, wanted in squares.items():
        torch.testing.assert_close(review[name], wanted, atol=1e-5, rtol=1e-3)


def test_the_importance_of_mas_is_of_the_logits_of_all_tokens_of_an_answer(llama):
    learner, batch = after_one("mas", llama)
    model = learner.model
    review = learner.strategy.review(model, batch)
    parameters = model.parameters()
    sizes = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
    for row in range(len(batch)):
        one = batch[slice(row, row + 1)].trimmed()
        length = model(one.inputs).logits.square().sum()
        gradients = torch.autograd.grad(length, list(parameters.values()))
        for name, gradient in zip(parameters, gradients, strict=True):
            sizes[name] += gradient.abs()
    for name, wanted in sizes.items():
        torch.testing.assert_close(review[name], wanted, atol=1e-2, rtol=1e-3)


def test_gem_compares_with_the_mean_likelihood_of_each_past_tasks_answers(llama):
    learner, batch = after_one("gem", llama)
    replay = Replay(learner.memory, learner.rows, 0, "cpu")
    kept = replay.draw(200)
    with torch.no_grad():
        (reference,) = learner.strategy.step(learner.model, batch, replay).references
        each = [log_likelihood(learner.model, kept, row) for row in range(len(kept))]
    torch.testing.assert_close(reference, -torch.stack(each).mean(), atol=1e-4, rtol=1e-4)


def test_lae_answers_with_the_larger_probability_of_each_token(llama):
    learner, batch = after_one("lae", llama)
    model = learner.model
    with torch.no_grad():
        for tensor in model.adapters["main"].tensors.values():
            tensor.add_(0.1)
        said = learner.strategy.predict(model, batch.inputs, None)
        for row in range(len(batch)):
            one = batch[slice(row, row + 1)].trimmed()
            experts = [model(one.inputs, adapters=[name]).logits[0] for name in ("main", "offline")]
            wanted = torch.maximum(*(expert.softmax(dim=1) for expert in experts))
            torch.testing.assert_close(said[row, : len(wanted)], wanted, atol=1e-5, rtol=1e-4)


def test_olora_has_the_authors_weight_and_scale_where_answers_are_tokens(llama):
    def loss(**settings):
        learner, batch = after_one("olora", llama, **settings)
        with torch.no_grad():
            return learner.strategy.step(learner.model, batch, NO_REPLAY)

    found, free = loss(), loss(orthogonality=0.0)
    torch.testing.assert_close(found.loss - free.loss, 0.5 * found.metrics["overlap"])
    assert found.metrics["overlap"] > 0


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A tiny encoder-decoder and its stream of calls."""
    folder = write_model("t5", tmp_path_factory.mktemp("t5"))
    backbone = load_backbone(BackboneSettings(str(folder), tower="both"))
    return backbone, calls_stream(backbone)


def test_what_each_half_of_an_encoder_decoder_reads_is_told_from_padding(t5):
    """Row by row there is none."""
    backbone, stream = t5
    model = make_learner("inflora", stream, backbone).model
    batch = stream.experiences[0].train[slice(0, 6)].trimmed()
    modules = [site.read for site in backbone.architecture.sites(None, None)]
    together = model.inputs_at(batch.inputs, modules)
    alone = [model.inputs_at(one.inputs, modules) for one in batch.chunks(1)]
    for module in modules:
        rows = torch.cat([each[module] for each in alone])
        torch.testing.assert_close(together[module], rows, atol=1e-4, rtol=1e-4)
    assert len({len(rows) for rows in together.values()}) == 2


@pytest.mark.parametrize("name", ["sdft", "ssr"])
def test_what_has_the_model_say_prompts_is_refused_where_an_encoder_reads_them(name, t5):
    backbone, stream = t5
    with pytest.raises(InputError, match=rf"strategy\.name: '{name}'"):
        make_learner(name, stream, backbone)
