"""Backbones whose weights are held in fewer bits."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from bundle_cases import calls_job
from lamina.adapters.kinds.peft import Peft
from lamina.adapters.model import AdaptedModel
from lamina.backbones import quantised
from lamina.backbones.load import load_backbone, outline_backbone
from lamina.backbones.operations import counted
from lamina.backbones.settings import BackboneSettings
from lamina.bundles import load_predictor, open_bundle, write_bundle
from lamina.bundles.exporting import export_bundle
from lamina.config import build_learner
from lamina.registry import InputError
from lamina.training.generate import generate
from language_models import SEQ2SEQ, calls_stream, write_model
from nouns import make_learner

BITS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed"),
    )
    for name, package in quantised.PACKAGES.items()
]
ERRORS = {"int8": 0.01, "nf4": 0.12}
"""Norm of what is lost of a weight matrix, to its own."""
WIDER = {
    "llama": {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16},
    "qwen2": {"hidden_size": 64, "intermediate_size": 128},
    "gpt2": {"n_embd": 64},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 128},
}
"""Of multiples of 64."""
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def written(name, folder):
    return write_model(name, folder, **WIDER[name])


def settings(name, folder, **more):
    return BackboneSettings(str(folder), tower="both" if name in SEQ2SEQ else None, **more)


@pytest.mark.parametrize(("bits", "package"), quantised.PACKAGES.items())
def test_a_missing_package_is_named_before_a_weight_is_read(bits, package, tmp_path, monkeypatch):
    folder = write_model("llama", tmp_path)
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    for load_it in (outline_backbone, load_backbone):
        with pytest.raises(InputError, match=rf"backbone\.quantize: '{bits}' needs {package}, "):
            load_it(settings("llama", folder, quantize=bits))


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_a_device_that_cannot_is_named_before_a_weight_is_read(tmp_path):
    folder = write_model("llama", tmp_path)
    with pytest.raises(InputError, match=r"backbone\.quantize: .*'vulkan' device \(allowed: .*cpu"):
        load_backbone(settings("llama", folder, quantize="nf4"), "vulkan")


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_widths_that_bitsandbytes_computes_wrongly_on_a_cpu_are_refused(tmp_path):
    folder = write_model("llama", tmp_path)
    with pytest.raises(InputError, match=r"backbone\.quantize: .*'nf4'.* 32 .*\(allowed: .* 64"):
        load_backbone(settings("llama", folder, quantize="nf4"))


@pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")
def test_a_model_without_linear_modules_has_no_8_bits(tmp_path):
    folder = write_model("gpt2", tmp_path)
    for load_it in (outline_backbone, load_backbone):
        with pytest.raises(InputError, match=r"backbone\.quantize: .*Conv1D.*\(allowed: nf4\)"):
            load_it(settings("gpt2", folder, quantize="int8"))


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match=r"backbone\.max_memory_gb: 1 does not go with"):
        BackboneSettings("minilm", quantize="int8", max_memory_gb=1)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["llama", "qwen2", "t5"])
def test_a_backbone_in_fewer_bits_answers_as_one_with_their_numbers(name, bits, tmp_path):
    folder = written(name, tmp_path / "model")
    whole, small = (load_backbone(settings(name, folder, quantize=each)) for each in (None, bits))
    assert whole.digest != small.digest
    assert whole.num_parameters() == small.num_parameters()
    stored = [sum(map(nbytes_of, each.model.parameters())) for each in (whole, small)]
    assert stored[1] < stored[0]
    rows = calls_stream(small).experiences[0].train
    for module, held in zip(whole.model.modules(), small.model.modules(), strict=True):
        if isinstance(module, nn.Linear):
            before = module.weight.clone()
            module.weight.copy_(numbers_of(held))
            assert (module.weight - before).norm() < ERRORS[bits] * before.norm()
    for with_gradients in (False, True):
        with torch.set_grad_enabled(with_gradients):
            (ours, ours_took), (theirs, theirs_took) = (
                counted(lambda each=each: AdaptedModel(each, None, 0)(rows.inputs).logits)
                for each in (small, whole)
            )
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert ours_took == theirs_took


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_adapters_learn_on_fewer_bits_and_leave_them_as_they_are(name, bits, tmp_path):
    small = load_backbone(settings(name, written(name, tmp_path), quantize=bits))
    small.keep_features(tmp_path / "features", 10**8)
    frozen = small.digest
    learner = make_learner("er", calls_stream(small), small)
    first, *_ = learner.learn()
    assert first.metrics["train/loss"] > 0
    adapters = learner.model.parameters()
    assert adapters
    assert {each.dtype for each in adapters.values()} == {torch.float32}
    assert any(each.abs().sum() > 0 for key, each in adapters.items() if "lora_B" in key)
    del small.__dict__["digest"]
    assert small.digest == frozen
    assert generate(learner.strategy, learner.model, ["the kitchen please"], max_new_tokens=4)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_4_bits_hold_the_turned_modules_of_gpt_2(tmp_path):
    folder = written("gpt2", tmp_path)
    whole, small = (
        load_backbone(settings("gpt2", folder, quantize=each)) for each in (None, "nf4")
    )
    assert small.architecture == whole.architecture
    site = whole.architecture.linears_in(None)[0]
    assert small.shape_of(site) == whole.shape_of(site)


@pytest.mark.parametrize("bits", BITS)
def test_modules_of_peft_are_not_laid_over_fewer_bits(bits, tmp_path):
    outline = outline_backbone(settings("llama", written("llama", tmp_path), quantize=bits))
    with pytest.raises(InputError, match=rf"adapter\.kind: 'peft' .*quantize '{bits}' holds"):
        Peft("LOHA").initialise(outline, torch.Generator())


@pytest.mark.parametrize("bits", BITS)
def test_its_bundle_answers_alike_and_says_that_plain_peft_would_not(bits, tmp_path):
    folder = written("llama", tmp_path / "model")
    job = calls_job("finetune", folder, backbone={"name": str(folder), "quantize": bits})
    backbone = load_backbone(job.backbone)
    learner = build_learner(job, calls_stream(backbone), backbone)
    list(learner.learn())
    write_bundle(job, learner, tmp_path / "bundle", name="small", trial="small-0")
    predictor = load_predictor(open_bundle(tmp_path / "bundle"))
    said = [each.text for each in predictor.generate(["the kitchen please"], max_new_tokens=4)]
    assert said == generate(
        learner.strategy, learner.model, ["the kitchen please"], max_new_tokens=4
    )
    done = export_bundle(open_bundle(tmp_path / "bundle"), tmp_path / "out")
    assert done.not_plain == f"the weights of its backbone are held as {bits}"


def numbers_of(module):
    """The weight that a linear module computes with."""
    if not hasattr(module.weight, "quant_state"):
        return module.weight.dequantize()
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(module.weight, module.weight.quant_state)


def nbytes_of(tensor):
    """What it takes in memory, also where it is made of several."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    return sum(nbytes_of(getattr(tensor, each)) for each in tensor.__tensor_flatten__()[0])
