"""Backbones whose weights are held in fewer bits."""

from importlib.util import find_spec

import pytest
import torch

from bundle_cases import calls_job
from lamina.adapters.model import AdaptedModel
from lamina.backbones import load
from lamina.backbones.backbone import BackboneSettings
from lamina.backbones.load import load_backbone, outline_backbone
from lamina.bundles import load_predictor, open_bundle, write_bundle
from lamina.bundles.exporting import export_bundle
from lamina.config import build_learner
from lamina.registry import InputError
from lamina.training.generate import generate
from language_models import SEQ2SEQ, calls_stream, write_model
from nouns import make_learner

HAS_TORCHAO = pytest.mark.skipif(find_spec("torchao") is None, reason="torchao is not installed")


def settings(name, folder, **more):
    return BackboneSettings(str(folder), tower="both" if name in SEQ2SEQ else None, **more)


def test_a_missing_package_is_named_before_a_weight_is_read(tmp_path, monkeypatch):
    folder = write_model("llama", tmp_path)
    monkeypatch.setattr(load, "find_spec", lambda name: None)
    for load_it in (outline_backbone, load_backbone):
        with pytest.raises(InputError, match=r"backbone\.quantize: 'int8' needs torchao, .*pip"):
            load_it(settings("llama", folder, quantize="int8"))


def test_what_does_not_go_together_is_refused():
    with pytest.raises(InputError, match=r"backbone\.max_memory_gb: 1 does not go with"):
        BackboneSettings("minilm", quantize="int8", max_memory_gb=1)


@HAS_TORCHAO
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["llama", "qwen2", "t5"])
def test_a_backbone_in_8_bits_learns_and_answers_nearly_as_the_whole_one(name, tmp_path):
    folder = write_model(name, tmp_path / "model")
    whole = load_backbone(settings(name, folder))
    small = load_backbone(settings(name, folder, quantize="int8"))
    stored = [sum(map(nbytes_of, each.model.parameters())) for each in (whole, small)]
    assert stored[1] < stored[0]
    assert whole.digest != small.digest
    small.keep_features(tmp_path / "features", 10**8)
    stream = calls_stream(small)
    rows = stream.experiences[0].train
    with torch.no_grad():
        ours, theirs = (AdaptedModel(each, None, 0)(rows.inputs).logits for each in (small, whole))
    error = (ours - theirs).abs().max()
    assert 0 < error < 0.1 * theirs.abs().max()
    learner = make_learner("er", stream, small)
    frozen = small.digest
    first, *_ = learner.learn()
    assert first.metrics["train/loss"] > 0
    del small.__dict__["digest"]
    assert small.digest == frozen
    assert generate(learner.strategy, learner.model, ["the kitchen please"], most=4)


@HAS_TORCHAO
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_its_bundle_answers_alike_and_says_that_plain_peft_would_not(tmp_path):
    folder = write_model("llama", tmp_path / "model")
    job = calls_job("finetune", folder, backbone={"name": str(folder), "quantize": "int8"})
    backbone = load_backbone(job.backbone)
    learner = build_learner(job, calls_stream(backbone), backbone)
    list(learner.learn())
    write_bundle(job, learner, tmp_path / "bundle", name="small", trial="small-0")
    predictor = load_predictor(open_bundle(tmp_path / "bundle"))
    said = [each.text for each in predictor.generate(["the kitchen please"], max_new_tokens=4)]
    assert said == generate(learner.strategy, learner.model, ["the kitchen please"], most=4)
    done = export_bundle(open_bundle(tmp_path / "bundle"), tmp_path / "out")
    assert done.not_plain == "the weights of its backbone are held as int8"


def nbytes_of(tensor):
    """What it takes in memory, also where it is made of several."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return tensor.numel() * tensor.element_size()
    return sum(nbytes_of(getattr(tensor, each)) for each in tensor.__tensor_flatten__()[0])
