"""Texts without their padding get what they get with it."""

import pytest
import torch
from transformers import (
    AutoModel,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from lamina.adapters import kind_class, kind_names
from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.backbones.calls import Call
from lamina.backbones.operations import counted
from lamina.backbones.positions import ARE_GIVEN
from lamina.backbones.unpadded import TokenPositions
from lamina.core import IGNORED, Samples
from language_models import calls_stream, language_backbone

PACKING_KINDS = [
    name for name in kind_names() if kind_class(name).packs and name not in ("vpt_deep", "peft")
]
TEXTS = ["on", "turn on the light", "what will the weather be like in the mountains tomorrow"]


@pytest.fixture
def texts(tiny_bert):
    number = len(TEXTS)
    labels = torch.zeros(number, dtype=torch.int64)
    return tiny_bert.encode(Samples(TEXTS, labels, torch.arange(number))).inputs


@pytest.fixture
def widths(monkeypatch):
    """The shapes in which tokens went through; and a switch that pads everything."""
    seen = []
    without = TokenPositions.without

    def noted(self, tokens):
        seen.append(without(self, tokens).shape)
        return without(self, tokens)

    monkeypatch.setattr(TokenPositions, "without", noted)
    return seen


def adapted(backbone, kind, seed=0, **settings):
    model = AdaptedModel(backbone, kind_class(kind)(**settings), seed)
    model.add()
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.adapters["main"].tensors.values():
        tensor.data.add_(0.1 * torch.randn(tensor.shape, generator=generator))
    return model


def answer(run, tensors):
    """Features, and the gradient of what depends on every token."""
    features = run()
    return features.detach(), torch.autograd.grad(features.pow(3).sum(), tensors)


def padded(monkeypatch, run, tensors):
    with monkeypatch.context() as patch:
        patch.setattr(TokenPositions, "of", lambda *_, **__: None)
        return answer(run, tensors)


@pytest.mark.parametrize("kind", PACKING_KINDS)
def test_every_kind_of_adapter_gets_the_same(kind, tiny_bert, texts, widths, monkeypatch):
    model = adapted(tiny_bert, kind)
    tensors = list(model.adapters["main"].tensors.values())

    def run():
        return model(texts).features

    found = answer(run, tensors)
    assert widths, "it was padded"
    widths.clear()
    expected = padded(monkeypatch, run, tensors)
    assert not widths
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("length", "prefixed", "seen"),
    [(12, 0, 16), (30, 0, 32), (17, 10, 22), (9, 0, None), (16, 0, None)],
)
def test_attention_sees_full_vectors_of_keys_where_few_are_missing(
    length, prefixed, seen, monkeypatch
):
    monkeypatch.setattr("lamina.backbones.unpadded.LANES", 16)
    places = TokenPositions.of(torch.ones(2, length, dtype=torch.int64), prefixed)
    assert (places and places.visible.shape[-1]) == seen


@pytest.mark.parametrize("layers", [(0,), (1,)])
def test_layers_below_the_adapted_ones_do_without_padding_too(
    layers, tiny_bert, texts, widths, monkeypatch
):
    model = adapted(tiny_bert, "lora", layers=layers)
    tensors = list(model.adapters["main"].tensors.values())

    def run():
        return model(texts).features

    found = answer(run, tensors)
    attentions = sum(shape[-1] != tiny_bert.dim for shape in widths)
    assert attentions == tiny_bert.architecture.num_layers
    torch.testing.assert_close(found, padded(monkeypatch, run, tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "prefix", "bottleneck"])
def test_calls_that_are_run_together_get_the_same(kind, tiny_bert, texts, widths, monkeypatch):
    models = [adapted(tiny_bert, kind, seed) for seed in range(3)]
    tensors = [each for model in models for each in model.adapters["main"].tensors.values()]

    def run():
        calls = [Call(texts, model.overlay()) for model in models]
        return torch.cat([each.features for each in tiny_bert.run_together(calls)])

    found = answer(run, tensors)
    assert widths
    torch.testing.assert_close(found, padded(monkeypatch, run, tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        RobertaConfig(pad_token_id=1, max_position_embeddings=40, intermediate_size=64),
        ElectraConfig(embedding_size=32, intermediate_size=64),
        DistilBertConfig(dim=32, n_heads=4, n_layers=2, hidden_dim=64),
    ],
    ids=lambda config: config.model_type,
)
def test_other_encoders_with_embedded_positions_get_the_same(
    config, tiny_bert, texts, widths, monkeypatch
):
    if config.model_type != "distilbert":
        config.update({"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4})
    config.vocab_size = 30522
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    backbone = Backbone(model, tiny_bert.inputs.encoder, tiny_bert.settings, "mean")
    inputs = {name: each for name, each in texts.items() if name != "token_type_ids"}
    lora = adapted(backbone, "lora")
    tensors = list(lora.adapters["main"].tensors.values())

    def run():
        return lora(inputs).features

    found = answer(run, tensors)
    assert widths
    torch.testing.assert_close(found, padded(monkeypatch, run, tensors), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARE_GIVEN)
@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_causal_models_get_the_same(name, kind, tmp_path, widths, monkeypatch):
    monkeypatch.setattr("lamina.backbones.unpadded.WORTH", 1.0)
    backbone = language_backbone(name, tmp_path)
    backbone.model.config.sliding_window = None
    batch = calls_stream(backbone).experiences[0].train[:8]
    model = adapted(backbone, kind)
    tensors = list(model.adapters["main"].tensors.values())

    def run():
        hidden = backbone(batch.inputs, model.overlay())
        counted = (batch.labels != IGNORED)[:, :, None]
        return torch.cat([hidden.features[:, None], hidden.answers * counted], dim=1)

    found = answer(run, tensors)
    assert widths, "it was padded"
    torch.testing.assert_close(found, padded(monkeypatch, run, tensors), rtol=1e-3, atol=1e-4)


def test_a_window_of_attention_that_is_shorter_than_the_texts_sees_padding(tmp_path, widths):
    backbone = language_backbone("mistral", tmp_path)
    batch = calls_stream(backbone).experiences[0].train
    assert backbone.model.config.sliding_window < batch.inputs["input_ids"].shape[1]
    adapted(backbone, "lora")(batch.inputs)
    assert not widths


def test_adapters_of_a_row_each_and_dropout_see_padding(tiny_bert, texts, widths):
    grouped = adapted(tiny_bert, "lora")
    tensors = {
        name: each.detach().expand(len(TEXTS), *each.shape)
        for name, each in grouped.adapters["main"].tensors.items()
    }
    kind = grouped.kind
    tiny_bert(texts, kind.overlay(tensors, tiny_bert))
    dropping = adapted(tiny_bert, "lora", dropout=0.5)
    with dropping.dropping(torch.Generator().manual_seed(0)):
        dropping(texts)
    assert not widths


def test_operations_are_counted_as_if_nothing_was_left_out(tiny_bert, texts, widths):
    model = adapted(tiny_bert, "lora")
    _, flops = counted(lambda: model(texts))
    assert not widths
    model(texts)
    assert widths
    assert flops == counted(lambda: model(texts))[1]
