"""T5, BART and their kin with encoder and decoder: answers are tokens that the decoder predicts."""

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.model import AdaptedModel
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.core import DECODED, IGNORED, Samples
from lamina.registry import InputError
from language_models import SEQ2SEQ, calls_stream, language_backbone


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each tiny model's folder, backbone and stream, made once."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            backbone = language_backbone(name, folder)
            made[name] = folder, backbone, calls_stream(backbone)
        return made[name]

    return of


def adapted(backbone, layers=None) -> AdaptedModel:
    """Under a LoRA that changes answers."""
    model = AdaptedModel(backbone, LoRA(rank=2, layers=layers), seed=0)
    for name, tensor in model.add().tensors.items():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize("name", list(SEQ2SEQ))
def test_logits_are_those_of_the_whole_model_and_labels_are_what_its_decoder_predicts(name, models):
    folder, backbone, stream = models(name)
    batch = stream.experiences[0].train[slice(0, 4)].trimmed()
    whole = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    asked = {key: batch.inputs[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        ours = AdaptedModel(backbone, None, 0)(batch.inputs).logits
        theirs = whole(**asked, labels=batch.labels).logits
    valid = batch.labels != IGNORED
    torch.testing.assert_close(ours[valid], theirs[valid], atol=1e-4, rtol=1e-4)
    assert batch.inputs[DECODED].shape == batch.labels.shape
    assert (batch.labels[:, -1] == 102).all()


@pytest.mark.parametrize("name", list(SEQ2SEQ))
def test_the_greedy_answer_is_right_where_every_token_is(name, models):
    folder, backbone, stream = models(name)
    whole = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    batch = stream.experiences[0].train[slice(0, 1)].trimmed()
    asked = {key: batch.inputs[key] for key in ("input_ids", "attention_mask")}
    whole.generation_config.forced_eos_token_id = None
    said = whole.generate(**asked, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert torch.equal(AdaptedModel(backbone, None, 0).generate(batch.inputs, 5), said[:, 1:])
    inputs = {
        **asked,
        DECODED: said[:, :-1],
        "decoder_attention_mask": torch.ones_like(said[:, :-1]),
    }
    with torch.no_grad():
        logits = AdaptedModel(backbone, None, 0)(inputs).logits
    assert torch.equal(logits.argmax(dim=-1), said[:, 1:])


def test_layers_count_through_the_encoder_and_on_through_the_decoder(models):
    _, backbone, _ = models("t5")
    parts = backbone.architecture
    assert (parts.num_layers, parts.num_encoder_layers) == (4, 2)
    names = {site.read for site in parts.sites(None, [-1])}
    assert names == {
        f"decoder.block.1.layer.{attention}.{name}"
        for attention in ("0.SelfAttention", "1.EncDecAttention")
        for name in "qv"
    }
    assert len(parts.sites(None, None)) == 2 * 2 + 2 * 4


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_what_a_frozen_encoder_makes_of_a_prompt_is_computed_once(name, models, tmp_path):
    folder, backbone, _ = models(name)
    kept = load_backbone(BackboneSettings(str(folder), tower="both"))
    kept.keep_features(tmp_path, 10**8)
    stream = calls_stream(kept)
    batch = stream.experiences[0].train[slice(2, 8)].trimmed()
    calls = []
    kept.model.get_encoder().register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        for layers, runs in (([-1], True), ([2, 3], False), ([0], True)):
            del calls[:]
            ours = adapted(kept, layers)(batch.inputs)
            assert bool(calls) == runs
            theirs = adapted(backbone, layers)(batch.inputs)
            torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(ours.features, theirs.features)


def test_which_half_is_used_goes_with_the_answers(models, tiny_bert_folder):
    folder, whole, _ = models("t5")
    encoder = load_backbone(BackboneSettings(str(folder)))
    zero = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(InputError, match=r"backbone\.tower: the encoder of a 't5' model cannot"):
        encoder.encode(Samples(["x"], zero, zero, ["y"]))
    with pytest.raises(InputError, match=r"backbone\.tower: 'both' is for answers of tokens"):
        whole.encode(Samples(["x"], zero, zero))
    with pytest.raises(InputError, match=r"backbone\.tower: a 't5' model has no part 'text'"):
        load_backbone(BackboneSettings(str(folder), tower="text"))
    with pytest.raises(InputError, match=r"backbone\.tower: a 'bert' model is one part"):
        load_backbone(BackboneSettings(str(tiny_bert_folder), tower="both"))
