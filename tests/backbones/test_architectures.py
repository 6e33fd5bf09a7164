"""Every architecture with every adapter kind: what works, and what is refused when a job is read.

The rows and cells are in tests/helpers/architectures.py, which prints them as a table too.
"""

import peft
import pytest
import torch
from transformers import AutoModel

from architectures import (
    CASES,
    KINDS,
    STATISTICS,
    WORKS,
    Case,
    inputs_of,
    perturbed,
    save_model,
    settings_of,
    tokenizer,
    verdict,
)
from lamina.adapters import kind_class
from lamina.adapters.model import AdaptedModel, per_sample_gradients
from lamina.adapters.peft_format import export_adapter
from lamina.backbones.load import load_backbone, outline_backbone
from lamina.backbones.locate import config_of
from lamina.backbones.settings import BackboneSettings
from lamina.backbones.weights import load_model
from lamina.core import Samples, generator_of
from lamina.registry import InputError
from nouns import make_learner, nouns_stream, shapes_stream

NO_PREFIX = {"prefix": "takes no keys and values", "vpt_deep": "takes no keys and values"}
FUSED = {"vpt_deep": "computes query, key and value together"}
ROTARY = {"vpt_deep": "changes keys by their position"}
NO_EMBEDDINGS = {"prompt": "takes no embeddings"}
SHARED = {"prefix": "its depths share one layer", "vpt_deep": "its depths share one layer"}
REFUSED = {
    "DeBERTa-v2": NO_PREFIX,
    "ALBERT": SHARED,
    "MPNet": NO_PREFIX,
    "ModernBERT": FUSED,
    "GPT-2": FUSED,
    "GPT-NeoX": FUSED,
    "Llama": ROTARY,
    "Qwen2": ROTARY,
    "Qwen3": ROTARY,
    "Gemma": ROTARY,
    "BART encoder": NO_PREFIX,
    "T5 encoder": NO_PREFIX,
    "CLIP text": NO_EMBEDDINGS,
    "CLIP (tower: text)": NO_EMBEDDINGS,
    "SigLIP text": NO_EMBEDDINGS,
    "SigLIP (tower: text)": NO_EMBEDDINGS,
    "BEiT": {"prompt": "by their place in the image"},
    "Swin": {
        "prefix": "see windows of an image",
        "prompt": "form a grid",
        "vpt_deep": "see windows of an image",
    },
    "ConvNeXt": {
        **NO_PREFIX,
        "lora": "allowed: pwconv1, pwconv2",
        "lora_mixture": "allowed: pwconv1, pwconv2",
        "prompt": "form a grid",
    },
}
"""What is refused, and a piece of the reason; all else works."""
TUNES_NORMS = pytest.mark.filterwarnings("ignore:Unsupported layer type")
"""PEFT 0.21 says so of its own LN tuning."""


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """The backbone of a case, loaded once."""
    loaded = {}

    def backbone(name):
        if name not in loaded:
            folder = tmp_path_factory.mktemp("model")
            save_model(CASES[name], folder)
            loaded[name] = load_backbone(settings_of(CASES[name], folder))
        return loaded[name]

    return backbone


@pytest.mark.parametrize("name", CASES)
def test_each_kind_works_alone_padded_and_packed_or_says_why_not(name, backbones):
    backbone = backbones(name)
    expected = REFUSED.get(name, {})
    for kind in (STATISTICS, *KINDS):
        found = verdict(backbone, kind)
        if kind in expected:
            assert expected[kind] in found, (kind, found)
            assert found.startswith("adapter.")
            assert "allowed" in found
            assert "\n" not in found
        else:
            assert found == WORKS, (kind, found)


@pytest.mark.parametrize("name", CASES)
def test_what_is_refused_is_refused_before_a_weight_is_read(name, backbones):
    outline = outline_backbone(backbones(name).settings)
    refused = {}
    for kind in KINDS:
        try:
            kind_class(kind)().initialise(outline, generator_of(0))
        except InputError as error:
            refused[kind] = str(error)
    assert refused.keys() == REFUSED.get(name, {}).keys()


@TUNES_NORMS
@pytest.mark.parametrize("name", CASES)
def test_peft_gives_the_same_features_with_the_same_tensors(name, backbones, tmp_path):
    backbone, case = backbones(name), CASES[name]
    kinds = ["lora", "ia3", "layernorm"]
    if "past_key_values" in backbone.capabilities.accepts:
        # PEFT's prefixes are a cache of keys and values, which other models do not have.
        kinds += ["prefix"]
    if case.modality == "text":
        kinds += ["prompt"]
    for each in kinds:
        if each in REFUSED.get(name, {}):
            continue
        kind = kind_class(each)()
        tensors = perturbed(kind, backbone)
        export_adapter(kind, tensors, backbone, tmp_path / each)
        inputs = dict(inputs_of(backbone))
        base = load_model(
            backbone.settings.name, config_of(backbone.settings.name), backbone.settings.tower
        )
        theirs = peft.PeftModel.from_pretrained(base.eval(), tmp_path / each).eval()
        learns_prompts = each in ("prefix", "prompt")
        if learns_prompts:
            inputs.pop("token_type_ids", None)
        # PEFT's own forward hands text models' arguments to all of them.
        run = theirs if learns_prompts else theirs.base_model.model
        with torch.no_grad():
            tokens = run(**inputs).last_hidden_state
        ours = backbone(inputs, kind.overlay(tensors, backbone)).features
        torch.testing.assert_close(ours, pooled(tokens, inputs, backbone), atol=5e-5, rtol=1e-4)


def pooled(tokens, inputs, backbone):
    """A model's last tokens, prompts left out, as its backbone pools them."""
    if tokens.dim() == 4:
        tokens = tokens.flatten(2).transpose(1, 2)
    if backbone.pooling == "first":
        return tokens[:, 0]
    if "attention_mask" not in inputs:
        return tokens.mean(dim=1)
    mask = inputs["attention_mask"][:, :, None]
    tokens = tokens[:, tokens.shape[1] - mask.shape[1] :]
    return (tokens * mask).sum(dim=1) / mask.sum(dim=1)


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_of_frozen_layers_changes_nothing(name, backbones, tmp_path):
    backbone = backbones(name)
    targets = ("pwconv1", "pwconv2") if name == "ConvNeXt" else None
    layers = None if name == "ALBERT" else (-1,)
    kind = kind_class("lora")(targets=targets, layers=layers)
    tensors = perturbed(kind, backbone)
    inputs = inputs_of(backbone)
    bare = backbone(inputs).features
    adapted = backbone(inputs, kind.overlay(tensors, backbone)).features
    try:
        backbone.keep_features(tmp_path, 10**8)
        keyed = {**inputs, "keys": backbone.features.register(inputs)}
        for _ in range(2):  # Computed, and read back.
            torch.testing.assert_close(backbone(keyed).features, bare, atol=1e-5, rtol=1e-5)
            found = backbone(keyed, kind.overlay(tensors, backbone)).features
            torch.testing.assert_close(found, adapted, atol=1e-5, rtol=1e-5)
    finally:
        backbone.features = None


@pytest.mark.parametrize("name", CASES)
def test_statistics_of_features_learn_a_stream_on_every_backbone(name, backbones):
    backbone = backbones(name)
    stream = (nouns_stream if CASES[name].modality == "text" else shapes_stream)(backbone)
    learner = make_learner("ncm", stream, backbone, adapter=None)
    report = list(learner.learn())[-1]
    assert all(accuracy is not None for accuracy in report.test)


@pytest.mark.parametrize("name", ["DeBERTa-v2", "GPT-2", "Llama", "Swin", "T5 encoder", "ALBERT"])
def test_the_gradient_of_each_row_is_that_of_its_own_loss(name, backbones):
    backbone = backbones(name)
    model = AdaptedModel(backbone, kind_class("lora")(), seed=0)
    model.add()
    model.grow_head(3)
    for tensor in model.parameters().values():
        tensor.data.add_(0.1 * torch.randn(tensor.shape, generator=generator_of(tensor.numel())))
    inputs = inputs_of(backbone)
    found = per_sample_gradients(model, inputs, lambda logits: logits.square().sum(dim=1))
    trained = model.parameters()
    for row in range(4):
        own = {key: value[row : row + 1] for key, value in inputs.items()}
        loss = model(own).logits.square().sum()
        gradients = torch.autograd.grad(loss, list(trained.values()))
        for key, gradient in zip(trained, gradients, strict=True):
            torch.testing.assert_close(found[key][row], gradient, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["ELECTRA", "ALBERT", "OPT", "BERT"])
def test_a_prompt_pool_is_as_wide_as_the_words_of_its_backbone(name, backbones):
    backbone = backbones(name)
    learner = make_learner("l2p", nouns_stream(backbone), backbone, adapter=None)
    report = list(learner.learn())[-1]
    assert all(accuracy is not None for accuracy in report.test)


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "T5 encoder"])
def test_a_tokenizer_without_padding_pads_on_the_right_under_a_mask(name, backbones):
    mask = inputs_of(backbones(name))["attention_mask"]
    assert mask.shape[1] > int(mask.sum(dim=1).min())
    assert (mask.diff(dim=1) <= 0).all()


def test_a_tokenizer_without_any_special_token_is_refused(tmp_path):
    save_model(CASES["GPT-2"], tmp_path)
    bare = tokenizer(has_padding=False)
    bare.eos_token = bare.unk_token = None
    bare.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"backbone\.name: its tokenizer has neither a padding"):
        outline_backbone(BackboneSettings(str(tmp_path)))


def test_a_tokenizer_with_more_tokens_than_its_model_is_refused(tmp_path):
    save_model(Case("bert", {**CASES["BERT"].config, "vocab_size": 10}), tmp_path)
    with pytest.raises(InputError, match=r"tokens, and its model embeds 10"):
        outline_backbone(BackboneSettings(str(tmp_path)))


@pytest.mark.parametrize("name", ["GPT-2", "DistilBERT", "BERT"])
def test_token_types_reach_only_a_model_that_has_them(name, backbones):
    assert ("token_type_ids" in inputs_of(backbones(name))) == (name == "BERT")


def test_texts_are_cut_at_the_positions_that_a_model_has(backbones):
    backbone = backbones("RoBERTa")
    long = Samples(["turn on the light " * 20], torch.zeros(1, dtype=torch.int64), torch.arange(1))
    inputs = backbone.encode(long).inputs
    # Two of 24 positions stand before the first token.
    assert inputs["input_ids"].shape[1] == backbone.inputs.max_length == 23
    assert backbone(inputs).features.isfinite().all()


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_tokens_before_a_text_that_is_as_long_as_the_model_allows_are_refused(kind, backbones):
    backbone = backbones("RoBERTa")
    adapter = kind_class(kind)(length=5)
    tensors = perturbed(adapter, backbone)
    long = Samples(["turn on the light " * 20], torch.zeros(1, dtype=torch.int64), torch.arange(1))
    with pytest.raises(InputError, match=r"backbone\.max_length: 18 at most"):
        backbone(backbone.encode(long).inputs, adapter.overlay(tensors, backbone))
    settings = BackboneSettings(backbone.settings.name, max_length=20)
    with pytest.raises(InputError, match=r"backbone\.max_length: 18 at most"):
        adapter.initialise(outline_backbone(settings), generator_of(0))


def test_siglip_pads_to_one_length_as_it_was_trained(tmp_path):
    save_model(CASES["SigLIP text"], tmp_path)
    tokenizer(makes=("input_ids",)).save_pretrained(tmp_path)
    backbone = load_backbone(BackboneSettings(str(tmp_path)))
    together = inputs_of(backbone)
    assert together["input_ids"].shape == (4, 64)
    assert together["attention_mask"].all()
    alone = backbone(inputs_of(backbone, slice(1, 2))).features
    torch.testing.assert_close(alone, backbone(together).features[1:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "CLIP text", "SigLIP", "Swin", "ConvNeXt"])
def test_a_first_token_that_stands_for_nothing_is_not_pooled(name, backbones):
    backbone = backbones(name)
    assert backbone.pooling == "mean"
    settings = BackboneSettings(
        backbone.settings.name, tower=backbone.settings.tower, pooling="first"
    )
    with pytest.raises(InputError, match=r"backbone\.pooling: the first token .*allowed: mean"):
        outline_backbone(settings)


def test_lora_works_on_the_modules_of_a_convnext_that_are_named(backbones):
    backbone = backbones("ConvNeXt")
    kind = kind_class("lora")(targets=("pwconv1", "pwconv2"))
    tensors = perturbed(kind, backbone)
    assert len(tensors) == 2 * 2 * 3
    inputs = inputs_of(backbone)
    moved = backbone(inputs, kind.overlay(tensors, backbone)).features - backbone(inputs).features
    assert moved.abs().max() > 1e-3


def test_a_bottleneck_stands_beside_the_mlp_and_never_beside_an_attention(backbones):
    for name, case in CASES.items():
        parts = backbones(name).architecture
        assert len(parts.mlps) == parts.num_layers, name
        assert not any("attention" in str(site) or "attn" in str(site) for site in parts.mlps), name
        assert case.modality == backbones(name).modality


def test_the_encoder_of_two_is_what_transformers_gives(backbones):
    backbone = backbones("T5 encoder")
    whole = AutoModel.from_pretrained(backbone.settings.name).eval()
    inputs = inputs_of(backbone)
    with torch.no_grad():
        tokens = whole.encoder(**inputs).last_hidden_state
    torch.testing.assert_close(backbone(inputs).features, pooled(tokens, inputs, backbone))
    assert not any("decoder" in name for name, _ in backbone.model.named_parameters())
