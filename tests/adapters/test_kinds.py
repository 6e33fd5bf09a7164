"""Every adapter kind against a naive version, against PEFT, and packed against alone."""

import json
from copy import copy
from dataclasses import replace

import peft
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

from lamina.adapters import kind_class, kind_names
from lamina.adapters.kinds.bottleneck import BottleneckPatch
from lamina.adapters.kinds.lora import concatenate
from lamina.adapters.peft_format import export_adapter, import_adapter
from lamina.backbones.load import load_backbone
from lamina.backbones.overlay import Overlay, StandIn
from lamina.backbones.settings import BackboneSettings
from lamina.core import generator_of
from lamina.registry import InputError

PEFT_KINDS = ["ia3", "layernorm", "lora", "peft", "prefix", "prompt"]
TUNES_LAYERNORMS = pytest.mark.filterwarnings("ignore:Unsupported layer type .*LayerNorm")
"""PEFT 0.21 says so of its own LN tuning."""
PACKING_KINDS = [name for name in kind_names() if kind_class(name).packs]


def perturbed(kind, backbone, seed=0):
    """Tensors of a kind, none of them zero."""
    tensors = kind.initialise(backbone, generator_of(seed, "test"))
    generator = generator_of(seed, "noise")
    return {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }


def test_the_kinds_are_there():
    expected = {"bias", "bottleneck", "ia3", "layernorm", "lora", "peft", "prefix", "prompt"}
    assert expected | {"lora_mixture", "ssf", "vpt_deep"} <= set(kind_names())
    assert set(kind_names()) - set(PACKING_KINDS) == {"peft"}


@pytest.mark.parametrize("name", kind_names())
def test_equal_settings_of_a_kind_are_one_key(name):
    """Hosts keep what they measure by the kind."""
    assert len({kind_class(name)(), kind_class(name)()}) == 1


def test_tuners_of_peft_are_told_apart_by_their_configuration():
    tuners = [kind_class("peft")("VERA", {"r": rank}) for rank in (4, 4, 8)]
    assert len(set(tuners)) == 2


@pytest.mark.parametrize(
    "name", ["bias", "bottleneck", "ia3", "layernorm", "lora", "lora_mixture", "peft"]
)
@pytest.mark.parametrize("which", ["tiny_bert", "tiny_vit"])
def test_a_new_additive_adapter_changes_nothing(name, which, request, inputs_of):
    backbone = request.getfixturevalue(which)
    kind = kind_class(name)()
    tensors = kind.initialise(backbone, generator_of(0, "test"))
    inputs = inputs_of(backbone)
    plain = backbone(inputs).features
    found = backbone(inputs, kind.overlay(tensors, backbone)).features
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", PACKING_KINDS)
def test_adapters_stay_in_float32_on_a_backbone_held_in_bfloat16(
    name, tiny_bert, tiny_bert_folder, inputs_of
):
    half = load_backbone(BackboneSettings(str(tiny_bert_folder), dtype="bfloat16"))
    kind, found = kind_class(name)(), []
    for backbone in (half, tiny_bert):
        tensors = {k: t.requires_grad_() for k, t in perturbed(kind, backbone).items()}
        features = backbone(inputs_of(backbone), kind.overlay(tensors, backbone)).features
        gradients = torch.autograd.grad(features.square().sum(), list(tensors.values()))
        assert all(tensor.dtype == torch.float32 for tensor in (*tensors.values(), *gradients))
        found.append((features, torch.cat([each.flatten() for each in gradients])))
    (half_features, half_gradient), (features, gradient) = found
    torch.testing.assert_close(half_features, features, atol=0.1, rtol=0.1)
    assert F.cosine_similarity(half_gradient, gradient, dim=0) > 0.98


@pytest.mark.parametrize("name", kind_names())
@pytest.mark.parametrize("which", ["tiny_bert", "tiny_vit"])
def test_every_tensor_reaches_the_features_and_gets_a_gradient(name, which, request, inputs_of):
    backbone = request.getfixturevalue(which)
    kind = kind_class(name)()
    tensors = {k: t.requires_grad_() for k, t in perturbed(kind, backbone).items()}
    inputs = inputs_of(backbone)
    features = backbone(inputs, kind.overlay(tensors, backbone)).features
    assert (features - backbone(inputs).features).abs().max() > 1e-3
    features.square().sum().backward()
    for tensor in tensors.values():
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("name", PACKING_KINDS)
@pytest.mark.parametrize("which", ["tiny_bert", "tiny_vit"])
def test_groups_of_rows_see_their_own_slice(name, which, request, inputs_of):
    backbone = request.getfixturevalue(which)
    kind = kind_class(name)()
    several = [perturbed(kind, backbone, seed) for seed in range(3)]
    packed = {key: torch.stack([each[key] for each in several]) for key in several[0]}
    inputs = inputs_of(backbone)
    together = backbone(inputs, kind.overlay(packed, backbone)).features
    for k, tensors in enumerate(several):
        rows = slice(2 * k, 2 * k + 2)
        own = {key: value[rows] for key, value in inputs.items()}
        alone = backbone(own, kind.overlay(tensors, backbone)).features
        torch.testing.assert_close(together[rows], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", kind_names())
def test_nothing_of_an_overlay_stays_on_the_backbone(name, tiny_bert, sentences):
    kind = kind_class(name)()
    before = tiny_bert(sentences.inputs).features
    digest = tiny_bert.digest
    tiny_bert(sentences.inputs, kind.overlay(perturbed(kind, tiny_bert), tiny_bert))
    assert torch.equal(tiny_bert(sentences.inputs).features, before)
    del tiny_bert.__dict__["digest"]
    assert tiny_bert.digest == digest


def test_lora_equals_merging_its_product_into_the_weights(tiny_bert, tiny_bert_folder, sentences):
    kind = kind_class("lora")(rank=4, alpha=6.0, targets=("query", "output.dense"))
    tensors = perturbed(kind, tiny_bert)
    merged = load_backbone(BackboneSettings(str(tiny_bert_folder)))
    for name in tensors:
        if name.endswith("lora_A.weight"):
            module = name.removesuffix(".lora_A.weight")
            update = tensors[f"{module}.lora_B.weight"] @ tensors[name] * 6.0 / 4
            merged.model.get_submodule(module).weight.data += update
    laid_over = tiny_bert(sentences.inputs, kind.overlay(tensors, tiny_bert)).features
    torch.testing.assert_close(laid_over, merged(sentences.inputs).features, atol=1e-5, rtol=0)


def test_a_mixture_of_loras_adds_its_experts_by_the_gate_of_each_token(tiny_bert, sentences):
    kind = kind_class("lora_mixture")(experts=3, rank=2, alpha=6.0)
    tensors = perturbed(kind, tiny_bert)

    def beside(module):
        a, b, gate = (tensors[f"{module}.{n}.weight"] for n in ("experts_A", "experts_B", "gate"))

        def changed(_module, inputs, output):
            x, added = inputs[0], torch.zeros_like(output)
            for row in range(x.shape[0]):
                for token in range(x.shape[1]):
                    scores = (gate @ x[row, token]).exp()
                    for expert in range(3):
                        own = slice(2 * expert, 2 * expert + 2)
                        update = b[:, own] @ (a[own] @ x[row, token])
                        added[row, token] += scores[expert] / scores.sum() * 3.0 * update
            return output + added

        return tiny_bert.model.get_submodule(module).register_forward_hook(changed)

    modules = [name.removesuffix(".gate.weight") for name in tensors if "gate" in name]
    hooks = [beside(module) for module in modules]
    expected = tiny_bert(sentences.inputs).features
    for hook in hooks:
        hook.remove()
    found = tiny_bert(sentences.inputs, kind.overlay(tensors, tiny_bert)).features
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_bottleneck_adds_its_narrow_mlp_beside_the_layers_own(tiny_bert, sentences):
    kind = kind_class("bottleneck")(width=8, scale=0.5, layers=(-1,))
    tensors = perturbed(kind, tiny_bert)
    assert {name.split(".")[0] for name in tensors} == {"1"}
    seen = {}
    layer = tiny_bert.model.encoder.layer[1]
    hooks = [
        layer.intermediate.dense.register_forward_pre_hook(lambda m, a: seen.update(x=a[0])),
        layer.output.dense.register_forward_hook(lambda m, a, y: seen.update(plain=y)),
        layer.output.dropout.register_forward_hook(lambda m, a, y: seen.update(patched=a[0])),
    ]
    tiny_bert(sentences.inputs, kind.overlay(tensors, tiny_bert))
    for hook in hooks:
        hook.remove()
    inner = F.linear(seen["x"], tensors["1.down.weight"], tensors["1.down.bias"]).relu()
    naive = seen["plain"] + 0.5 * F.linear(inner, tensors["1.up.weight"], tensors["1.up.bias"])
    torch.testing.assert_close(seen["patched"], naive, atol=1e-6, rtol=0)


def test_a_bottleneck_before_the_norm_reads_the_tokens_of_a_vision_transformer(tiny_vit, inputs_of):
    kind = kind_class("bottleneck")(width=8, scale=0.5, layers=(-1,), before_norm=True)
    tensors = perturbed(kind, tiny_vit)
    seen = {}
    layer = tiny_vit.model.layers[1]
    hooks = [
        layer.layernorm_after.register_forward_pre_hook(lambda m, a: seen.update(tokens=a[0])),
        layer.mlp.fc2.register_forward_hook(lambda m, a, y: seen.update(plain=y)),
        layer.register_forward_hook(lambda m, a, y: seen.update(out=y)),
    ]
    tiny_vit(inputs_of(tiny_vit), kind.overlay(tensors, tiny_vit))
    for hook in hooks:
        hook.remove()
    inner = F.linear(seen["tokens"], tensors["1.down.weight"], tensors["1.down.bias"]).relu()
    added = 0.5 * F.linear(inner, tensors["1.up.weight"], tensors["1.up.bias"])
    naive = seen["tokens"] + seen["plain"] + added
    torch.testing.assert_close(seen["out"], naive, atol=1e-5, rtol=0)


def test_before_the_norm_changes_nothing_where_an_mlp_reads_tokens_as_they_are(
    tiny_bert, sentences
):
    kinds = [kind_class("bottleneck")(before_norm=each) for each in (False, True)]
    tensors = perturbed(kinds[0], tiny_bert)
    found = [tiny_bert(sentences.inputs, k.overlay(tensors, tiny_bert)).features for k in kinds]
    assert torch.equal(*found)


def test_before_a_norm_that_is_not_known_is_refused(tiny_bert):
    unknown = replace(tiny_bert.architecture, norms_before_mlp=None)
    backbone = copy(tiny_bert)
    backbone.architecture = unknown
    kind = kind_class("bottleneck")(before_norm=True)
    with pytest.raises(InputError, match=r"adapter\.before_norm: .*allowed: false"):
        kind.initialise(backbone, generator_of(0))


def test_a_bottleneck_drops_inner_activations_in_training_only(tiny_bert, sentences):
    kind = kind_class("bottleneck")(dropout=0.5)
    tensors = perturbed(kind, tiny_bert)

    def features(*seed):
        generator = generator_of(seed[0], "dropout") if seed else None
        return tiny_bert(sentences.inputs, kind.overlay(tensors, tiny_bert, generator)).features

    assert torch.equal(features(1), features(1))
    assert not torch.equal(features(1), features(2))
    plain = kind_class("bottleneck")().overlay(tensors, tiny_bert)
    assert torch.equal(features(), tiny_bert(sentences.inputs, plain).features)


def test_half_of_the_inner_activations_are_dropped_and_the_others_doubled():
    patch = BottleneckPatch(
        torch.eye(4), torch.ones(4), torch.eye(4), torch.zeros(4), 1.0, 0.5, generator_of(0)
    )
    found = patch(torch.zeros(500, 2, 4), torch.zeros(500, 2, 4))
    assert set(found.unique().tolist()) == {0.0, 2.0}
    assert abs(found.mean() - 1) < 0.1


@TUNES_LAYERNORMS
@pytest.mark.parametrize("name", PEFT_KINDS)
@pytest.mark.parametrize("which", ["tiny_bert", "minilm"])
def test_peft_loads_an_exported_adapter_and_gives_equal_features(name, which, request, tmp_path):
    backbone = request.getfixturevalue(which)
    kind = kind_class(name)()
    tensors = perturbed(kind, backbone)
    export_adapter(kind, tensors, backbone, tmp_path)
    inputs = dict(request.getfixturevalue("sentences").inputs)
    inputs.pop("token_type_ids")
    ours = backbone(inputs, kind.overlay(tensors, backbone)).features
    base = AutoModel.from_pretrained(backbone.model.config._name_or_path).eval()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        tokens = theirs(**inputs).last_hidden_state
    num_prompts = tokens.shape[1] - inputs["input_ids"].shape[1]
    mask = inputs["attention_mask"][:, :, None]
    pooled = (tokens[:, num_prompts:] * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(ours, pooled, atol=5e-5, rtol=1e-5)


@TUNES_LAYERNORMS
@pytest.mark.parametrize("name", PEFT_KINDS)
def test_an_adapter_that_peft_saved_is_imported_and_gives_equal_features(
    name, tiny_bert, tiny_bert_folder, sentences, tmp_path
):
    torch.manual_seed(1)
    config = {
        "lora": peft.LoraConfig(
            task_type="FEATURE_EXTRACTION", r=4, lora_alpha=8, init_lora_weights=False
        ),
        "prefix": peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4),
        "prompt": peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=4),
        "ia3": peft.IA3Config(task_type="FEATURE_EXTRACTION", init_ia3_weights=False),
        "layernorm": peft.LNTuningConfig(
            task_type="FEATURE_EXTRACTION", target_modules=["LayerNorm"]
        ),
        "peft": peft.VeraConfig(
            task_type="FEATURE_EXTRACTION", r=4, target_modules=["query"], d_initial=0.5
        ),
    }[name]
    theirs = peft.get_peft_model(AutoModel.from_pretrained(tiny_bert_folder), config).eval()
    for key, tensor in theirs.named_parameters():
        if "ln_tuning_layers" in key or "vera_lambda_b" in key:
            tensor.data += 0.3 * torch.randn(tensor.shape)
    theirs.save_pretrained(tmp_path)
    settings = {
        "lora": {"rank": 4, "alpha": 8.0},
        "prefix": {"length": 4},
        "prompt": {"length": 4},
        "ia3": {"targets": ("key", "value", "output.dense"), "feedforward": ("output.dense",)},
        "layernorm": {},
        "peft": {
            "peft_type": "VERA",
            "config": {"r": 4, "target_modules": ["query"], "d_initial": 0.5},
        },
    }[name]
    kind = kind_class(name)(**settings)
    tensors = import_adapter(kind, tiny_bert, tmp_path)
    inputs = dict(sentences.inputs)
    inputs.pop("token_type_ids")
    with torch.no_grad():
        tokens = theirs(**inputs).last_hidden_state
    tokens = tokens[:, tokens.shape[1] - inputs["input_ids"].shape[1] :]
    mask = inputs["attention_mask"][:, :, None]
    ours = tiny_bert(inputs, kind.overlay(tensors, tiny_bert)).features
    torch.testing.assert_close(ours, (tokens * mask).sum(1) / mask.sum(1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", kind_names())
@pytest.mark.parametrize("which", ["tiny_bert", "tiny_vit"])
def test_an_adapter_survives_its_own_folder(name, which, request, tmp_path):
    backbone = request.getfixturevalue(which)
    kind = kind_class(name)()
    tensors = perturbed(kind, backbone)
    export_adapter(kind, tensors, backbone, tmp_path)
    back = import_adapter(kind, backbone, tmp_path)
    assert back.keys() == tensors.keys()
    rounding = 1e-6 if name == "layernorm" else 0.0  # PEFT keeps a sum of it and the frozen weight.
    for key in tensors:
        torch.testing.assert_close(back[key], tensors[key], atol=rounding, rtol=0)


def test_concatenated_loras_are_exported_with_their_scale(tiny_bert, tmp_path):
    kind = kind_class("lora")(rank=4, alpha=8.0)
    both = concatenate(perturbed(kind, tiny_bert, 0), perturbed(kind, tiny_bert, 1))
    export_adapter(kind, both, tiny_bert, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["r"] == 8
    assert config["lora_alpha"] / config["r"] == 8.0 / 4


def test_summed_loras_equal_one_concatenated_lora(tiny_bert, sentences):
    kind = kind_class("lora")(rank=4)
    first, second = perturbed(kind, tiny_bert, 0), perturbed(kind, tiny_bert, 1)
    overlay = kind.overlay(first, tiny_bert) | kind.overlay(second, tiny_bert)
    summed = tiny_bert(sentences.inputs, overlay).features
    one = tiny_bert(sentences.inputs, kind.overlay(concatenate(first, second), tiny_bert)).features
    torch.testing.assert_close(summed, one, atol=1e-5, rtol=0)


def test_dropout_is_drawn_from_its_generator_and_only_in_training(tiny_bert, sentences):
    kind = kind_class("lora")(dropout=0.5)
    tensors = perturbed(kind, tiny_bert)

    def features(*seed):
        generator = generator_of(seed[0], "dropout") if seed else None
        return tiny_bert(sentences.inputs, kind.overlay(tensors, tiny_bert, generator)).features

    assert torch.equal(features(1), features(1))
    assert not torch.equal(features(1), features(2))
    plain = kind_class("lora")()
    assert torch.equal(
        features(), tiny_bert(sentences.inputs, plain.overlay(tensors, tiny_bert)).features
    )


def test_an_ia3_factor_of_an_mlp_scales_what_its_last_linear_reads(tiny_vit, inputs_of):
    kind = kind_class("ia3")(targets=("fc2",), layers=(1,))
    tensors = perturbed(kind, tiny_vit)
    (factor,) = tensors.values()
    assert factor.shape == (64,)
    inputs, fc2 = inputs_of(tiny_vit), tiny_vit.model.layers[1].mlp.fc2
    ours = tiny_vit(inputs, kind.overlay(tensors, tiny_vit)).features
    frozen = fc2.weight.data
    fc2.weight.data = frozen * factor
    merged = tiny_vit(inputs).features
    fc2.weight.data = frozen
    torch.testing.assert_close(ours, merged, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["ssf", "layernorm", "bias"])
@pytest.mark.parametrize("which", ["tiny_bert", "tiny_vit"])
def test_scales_and_shifts_equal_a_model_with_changed_weights(name, which, request, inputs_of):
    backbone = request.getfixturevalue(which)
    kind = kind_class(name)()
    tensors = perturbed(kind, backbone)
    inputs = inputs_of(backbone)
    ours = backbone(inputs, kind.overlay(tensors, backbone)).features
    changed = load_backbone(backbone.settings)
    for key, tensor in tensors.items():
        module, part = key.rsplit(".", 1)
        target = changed.model.get_submodule(module)
        if part == "scale":
            rows = tensor if isinstance(target, torch.nn.LayerNorm) else tensor[:, None]
            target.weight.data = target.weight * rows
            target.bias.data = target.bias * tensor
        else:
            target.get_parameter("bias" if part == "shift" else part).data += tensor
    torch.testing.assert_close(ours, changed(inputs).features, atol=2e-5, rtol=0)


def test_ssf_starts_near_the_frozen_model_and_reaches_every_layernorm(tiny_vit, inputs_of):
    kind = kind_class("ssf")()
    tensors = kind.initialise(tiny_vit, generator_of(0, "test"))
    assert "layernorm.scale" in tensors
    assert len(tensors) == 2 * (2 * (6 + 2) + 1)
    scales = torch.cat([tensor for key, tensor in tensors.items() if key.endswith("scale")])
    assert abs(scales.mean() - 1) < 0.01
    assert abs(scales.std() - 0.02) < 0.005


@pytest.mark.parametrize("which", ["tiny_bert", "tiny_vit"])
def test_vpt_deep_equals_tokens_that_enter_and_leave_every_layer(which, request, inputs_of):
    backbone = request.getfixturevalue(which)
    kind = kind_class("vpt_deep")(length=3)
    tensors = perturbed(kind, backbone)
    inputs = inputs_of(backbone)
    ours = backbone(inputs, kind.overlay(tensors, backbone)).features
    model, num_rows = backbone.model, 6
    if backbone.modality == "image":
        hidden, mask, layers = model.embeddings(inputs["pixel_values"]), None, model.layers
    else:
        mask = F.pad(inputs["attention_mask"], (3, 0), value=1)[:, None, None].bool()
        hidden, layers = model.embeddings(inputs["input_ids"]), model.encoder.layer
    for layer, own in zip(layers, tensors["prompt_embeddings"], strict=True):
        both = torch.cat([own.expand(num_rows, -1, -1), hidden], dim=1)
        hidden = layer(both) if mask is None else layer(both, attention_mask=mask)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden = hidden[:, 3:]
    if backbone.modality == "image":
        naive = model.layernorm(hidden)[:, 0]
    else:
        weights = inputs["attention_mask"][:, :, None]
        naive = (hidden * weights).sum(1) / weights.sum(1)
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)


def test_several_layernorm_or_bias_adapters_add_up(tiny_bert, sentences):
    for name in ("layernorm", "bias", "ia3"):
        kind = kind_class(name)()
        first, second = perturbed(kind, tiny_bert, 0), perturbed(kind, tiny_bert, 1)
        overlay = kind.overlay(first, tiny_bert) | kind.overlay(second, tiny_bert)
        both = {
            key: first[key] * second[key] if name == "ia3" else first[key] + second[key]
            for key in first
        }
        one = tiny_bert(sentences.inputs, kind.overlay(both, tiny_bert)).features
        two = tiny_bert(sentences.inputs, overlay).features
        torch.testing.assert_close(two, one, atol=2e-5, rtol=0)


TUNERS = {
    "FOURIERFT": {"n_frequency": 50},
    "HRA": {},
    "LOHA": {},
    "LOKR": {},
    "LORA": {"use_dora": True},
    "MISS": {"r": 8},
    "OFT": {"oft_block_size": 8},
    "RANDLORA": {"r": 4},
    "VBLORA": {"vector_length": 16, "num_vectors": 8},
    "VERA": {"r": 4},
}


@pytest.mark.parametrize("peft_type", TUNERS)
@pytest.mark.parametrize("which", ["tiny_bert", "tiny_vit"])
def test_any_tuner_of_peft_equals_peft_and_leaves_the_backbone(
    peft_type, which, request, inputs_of, tmp_path
):
    backbone = request.getfixturevalue(which)
    before = {key: each.clone() for key, each in backbone.model.state_dict().items()}
    kind = kind_class("peft")(peft_type=peft_type, config=TUNERS[peft_type])
    tensors = {k: t.requires_grad_() for k, t in perturbed(kind, backbone).items()}
    inputs = inputs_of(backbone)
    ours = backbone(inputs, kind.overlay(tensors, backbone)).features
    ours.square().sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in tensors.values())
    export_adapter(kind, tensors, backbone, tmp_path)
    base = AutoModel.from_pretrained(backbone.model.config._name_or_path).eval()
    plain = peft.PeftModel.from_pretrained(base, tmp_path).eval().base_model.model
    theirs = backbone(inputs, Overlay(stand_in=StandIn(plain, {}))).features
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    after = backbone.model.state_dict()
    assert all(torch.equal(after[key], each) for key, each in before.items())
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_peft_modules_share_the_frozen_weights(tiny_vit):
    kind = kind_class("peft")()
    stand_in = kind.overlay(perturbed(kind, tiny_vit), tiny_vit).stand_in
    assert stand_in.module is kind.overlay({}, tiny_vit).stand_in.module
    places = {parameter.data_ptr() for parameter in stand_in.module.parameters()}
    assert all(parameter.data_ptr() in places for parameter in tiny_vit.model.parameters())


def test_what_is_laid_over_a_backbone_is_laid_over_a_stand_in(tiny_bert, sentences):
    """LoRA, a prefix and a prompt see PEFT's modules like the model's own."""
    still = kind_class("peft")()
    nothing = still.overlay(still.initialise(tiny_bert, generator_of(0)), tiny_bert)
    for name in ("lora", "prefix", "prompt", "bottleneck", "ia3"):
        kind = kind_class(name)()
        overlay = kind.overlay(perturbed(kind, tiny_bert), tiny_bert)
        alone = tiny_bert(sentences.inputs, overlay).features
        both = tiny_bert(sentences.inputs, nothing | overlay).features
        torch.testing.assert_close(both, alone, atol=1e-6, rtol=0)


def test_what_peft_cannot_do_here_is_refused_with_the_reason(tiny_vit):
    def refused(message, **settings):
        with pytest.raises(InputError, match=message):
            kind_class("peft")(**settings).initialise(tiny_vit, generator_of(0))

    refused(r"adapter.peft_type: 'LORRA' is unknown; did you mean 'LORA'", peft_type="LORRA")
    refused("learns prompts", peft_type="PREFIX_TUNING", config={"num_virtual_tokens": 3})
    refused("adapter.config: 'ranc' is unknown", config={"ranc": 3})
    refused("adapter.config: PEFT refuses it: ", config={"target_modules": ["qurey"]})
    refused("adapter.config.rank_dropout: 0.1 is not 0", config={"rank_dropout": 0.1})
    for init in ("pissa", "olora"):
        refused(
            "LORA as configured changes the frozen weights",
            peft_type="LORA",
            config={"init_lora_weights": init},
        )
    kind = kind_class("peft")()
    overlay = kind.overlay(kind.initialise(tiny_vit, generator_of(0)), tiny_vit)
    with pytest.raises(InputError, match="cannot lie over a backbone at once"):
        overlay | overlay


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "xlm-roberta"])
def test_default_targets_are_those_of_peft(model_type):
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    from lamina.backbones.read_architecture import read_architecture

    config = AutoConfig.for_model(
        model_type,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        vocab_size=100,
    )
    architecture = read_architecture(AutoModel.from_config(config))
    expected = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING[model_type]
    assert list(architecture.query_and_value) == expected
    assert len(architecture.sites(None, None)) == 4


def test_a_target_or_layer_that_is_not_there_is_named_with_the_nearest_match(tiny_bert):
    with pytest.raises(InputError, match=r"adapter.targets: 'qurey' .* did you mean 'query'"):
        kind_class("lora")(targets=("qurey",)).initialise(tiny_bert, generator_of(0))
    with pytest.raises(InputError, match=r"adapter.layers: there is no layer 7 \(allowed: 0 to 1"):
        kind_class("lora")(layers=(7,)).initialise(tiny_bert, generator_of(0))


def test_a_broken_adapter_is_refused_with_the_reason(tiny_bert, tmp_path):
    kind = kind_class("lora")()
    with pytest.raises(InputError, match="not an adapter's folder"):
        import_adapter(kind, tiny_bert, tmp_path / "nowhere")
    export_adapter(kind, perturbed(kind, tiny_bert), tiny_bert, tmp_path)
    state = load_file(tmp_path / "adapter_model.safetensors")
    name = next(iter(state))

    def saved(changed):
        save_file(changed, tmp_path / "adapter_model.safetensors")
        return pytest.raises(InputError, match=str(tmp_path))

    with saved({key: value for key, value in state.items() if key != name}) as error:
        import_adapter(kind, tiny_bert, tmp_path)
    assert "1 tensors are missing" in str(error.value)
    with saved({**state, name: state[name][:, 1:].contiguous()}) as error:
        import_adapter(kind, tiny_bert, tmp_path)
    assert "expected (8, 32)" in str(error.value)
    with saved({**state, name: state[name] / 0}) as error:
        import_adapter(kind, tiny_bert, tmp_path)
    assert "not finite" in str(error.value)


@pytest.fixture
def inputs_of(sentences):
    """Six inputs for a backbone of either modality."""

    def inputs(backbone):
        if backbone.modality == "text":
            return dict(sentences.inputs)
        return {"pixel_values": torch.randn(6, 3, 32, 32, generator=generator_of(0, "images"))}

    return inputs
