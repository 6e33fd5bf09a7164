"""What a folder of weights may lack, and which part of a model is used."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    WhisperConfig,
)

from architectures import CASES, inputs_of, save_model, settings_of, tokenizer
from lamina.backbones.load import load_backbone, outline_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.registry import InputError

LOADERS = pytest.mark.parametrize("load", [outline_backbone, load_backbone])


@pytest.fixture
def folder(tmp_path) -> Path:
    """A random BERT."""
    save_model(CASES["BERT"], tmp_path)
    return tmp_path


def changed(folder: Path, change) -> None:
    """The same folder with other tensors."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def refused(load, folder: Path, message: str) -> str:
    with pytest.raises(InputError, match=message) as error:
        load(BackboneSettings(str(folder)))
    assert str(error.value).startswith("backbone.name: ")
    assert "\n" not in str(error.value)
    return str(error.value)


@LOADERS
def test_a_layer_that_is_missing_is_refused_by_the_names_of_its_tensors(load, folder):
    changed(folder, lambda tensors: {k: v for k, v in tensors.items() if ".layer.1." not in k})
    message = refused(load, folder, r"lacks 16 tensors of a 'bert' model, which would be random")
    assert "encoder.layer.1.attention.output.LayerNorm.bias" in message
    assert message.endswith("and 13 more")


@LOADERS
def test_a_single_tensor_that_is_missing_is_refused(load, folder):
    changed(folder, lambda t: {k: v for k, v in t.items() if k != "embeddings.LayerNorm.weight"})
    assert refused(load, folder, "lacks 1 tensors").endswith(": embeddings.LayerNorm.weight")


@LOADERS
def test_a_tensor_of_another_shape_is_refused_by_its_name(load, folder):
    name = "encoder.layer.0.attention.self.query.weight"
    changed(folder, lambda tensors: {**tensors, name: torch.zeros(16, 32)})
    assert name in refused(load, folder, "lacks 1 tensors")


def test_a_pooler_that_nobody_reads_may_be_missing(folder):
    changed(folder, lambda tensors: {k: v for k, v in tensors.items() if "pooler" not in k})
    assert load_backbone(BackboneSettings(str(folder))).dim == 32


def test_a_head_that_nobody_reads_may_be_there(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    backbone = load_backbone(BackboneSettings(str(tmp_path)))
    inputs = inputs_of(backbone)
    with torch.no_grad():
        tokens = model.bert(**inputs).last_hidden_state
    mask = inputs["attention_mask"][:, :, None]
    expected = (tokens * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(backbone(inputs).features, expected, atol=1e-6, rtol=0)


@LOADERS
@pytest.mark.parametrize("length", [0, 5, 100, -100])
def test_a_file_that_is_cut_off_is_one_line(load, length, folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    refused(load, folder, "damaged or cut off")


@LOADERS
def test_a_folder_without_weights_is_one_line(load, folder):
    (folder / "model.safetensors").unlink()
    refused(load, folder, "no file named model.safetensors")


@LOADERS
@pytest.mark.parametrize("content", [None, "", "{", '{"model_type": "berrt"}', "[]"])
def test_a_configuration_that_is_missing_or_broken_is_one_line(load, content, folder):
    path = folder / "config.json"
    path.unlink() if content is None else path.write_text(content)
    refused(load, folder, "holds no model that transformers can load")


@LOADERS
def test_a_configuration_of_other_types_is_one_line(load, folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": "wide"}))
    refused(load, folder, "holds no model that transformers can load .*'hidden_size' expected int")


@LOADERS
def test_code_that_comes_with_a_model_is_not_run_nor_asked_about(load, folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    path = folder / "config.json"
    own = {"model_type": "mine", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    (folder / "own.py").write_text("raise SystemExit('this was run')")
    refused(load, folder, "custom code")


@LOADERS
def test_a_tokenizer_that_transformers_makes_up_is_refused(load, folder):
    for path in folder.glob("*token*"):
        path.unlink()
    refused(load, folder, "has no tokenizer .*tokenizer.json")


@LOADERS
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"a":'),
        ("tokenizer.json", '{"version": "1.0", "model": {"type": "Other"}}'),
        ("tokenizer_config.json", "{"),
        ("tokenizer_config.json", "[1]"),
        ("sentence_bert_config.json", "{"),
    ],
)
def test_a_tokenizer_that_is_damaged_is_one_line(load, name, content, folder):
    (folder / name).write_text(content)
    refused(load, folder, "has no tokenizer|is no JSON")


@pytest.mark.parametrize("name", ["ViT", "DeiT", "CLIP vision", "SigLIP vision"])
def test_images_of_a_size_that_a_model_does_not_take_are_refused(name, tmp_path):
    save_model(CASES[name], tmp_path)
    outline_backbone(settings_of(CASES[name], tmp_path))
    path = tmp_path / "preprocessor_config.json"
    size = {"height": 48, "width": 48}
    settings = json.loads(path.read_text()) | {"size": size, "crop_size": size}
    path.write_text(json.dumps(settings))
    with pytest.raises(
        InputError, match=r"^backbone\.name: .* makes \[3, 48, 48\] .* its model fails: "
    ):
        outline_backbone(settings_of(CASES[name], tmp_path))


@pytest.mark.parametrize("change", [{"do_resize": False}, {"size": {"shortest_edge": 32}}])
def test_images_of_several_sizes_are_refused(change, tmp_path):
    save_model(CASES["ConvNeXt"], tmp_path)
    outline_backbone(settings_of(CASES["ConvNeXt"], tmp_path))
    kind = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kind | change))
    with pytest.raises(InputError, match=r"^backbone\.name: .* of an upright image and \["):
        outline_backbone(settings_of(CASES["ConvNeXt"], tmp_path))


def test_a_folder_may_be_under_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert outline_backbone(BackboneSettings(f"~/{folder.name}")).architecture.model_type == "bert"


def test_a_pickle_of_plain_tensors_gives_what_safetensors_give(folder):
    expected = load_backbone(BackboneSettings(str(folder)))
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load_backbone(BackboneSettings(str(folder))).digest == expected.digest


class Surprise:
    """What a pickle may hold beside tensors."""

    def __reduce__(self):
        return (print, ("this was run",))


@LOADERS
def test_a_pickle_that_holds_more_than_tensors_is_not_opened(load, folder, capsys):
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.LayerNorm.weight": Surprise()}, folder / "pytorch_model.bin")
    refused(load, folder, "holds more than tensors, or is damaged")
    assert "this was run" not in capsys.readouterr().out


@LOADERS
@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps([1, 2], protocol=2)])
def test_a_pickle_that_is_damaged_is_one_line(load, content, folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(content)
    refused(load, folder, "pickle|does not load")


@LOADERS
def test_a_model_that_reads_sounds_is_refused(load, tmp_path):
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 48}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    ends = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}
    config = WhisperConfig(**size, **heads, **ends, encoder_ffn_dim=16, decoder_ffn_dim=16)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    refused(load, tmp_path, "reads 'input_features'.*allowed: models of texts or images")


def test_an_encoder_that_was_saved_without_its_decoder_loads(tmp_path):
    torch.manual_seed(0)
    config = T5Config(d_model=32, num_layers=2, num_heads=4, d_kv=8, d_ff=64, vocab_size=48)
    T5EncoderModel(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    backbone = load_backbone(BackboneSettings(str(tmp_path)))
    assert backbone(inputs_of(backbone)).features.isfinite().all()
    changed(tmp_path, lambda t: {k: v for k, v in t.items() if ".block.1." not in k})
    refused(load_backbone, tmp_path, "lacks 8 tensors")


def test_a_tower_of_a_model_that_has_one_part_is_refused(folder):
    with pytest.raises(InputError, match=r"backbone\.tower: a 'bert' model is one part"):
        outline_backbone(BackboneSettings(str(folder), tower="text"))


@pytest.mark.parametrize("model", ["CLIP", "SigLIP"])
def test_the_towers_of_a_model_are_what_transformers_gives(model, tmp_path):
    save_model(CASES[model], tmp_path)
    whole = AutoModel.from_pretrained(tmp_path).eval()
    images = load_backbone(settings_of(CASES[model], tmp_path))
    texts = load_backbone(settings_of(CASES[f"{model} (tower: text)"], tmp_path))
    assert (images.modality, texts.modality) == ("image", "text")
    inputs = inputs_of(images)
    with torch.no_grad():
        tokens = whole.vision_model(**inputs).last_hidden_state
    expected = tokens[:, 0] if model == "CLIP" else tokens.mean(dim=1)
    torch.testing.assert_close(images(inputs).features, expected)
    assert not any(name.startswith("text") for name, _ in images.model.named_parameters())


def test_only_the_tower_that_is_used_has_to_be_there(tmp_path):
    save_model(CASES["CLIP"], tmp_path)
    changed(tmp_path, lambda t: {k: v for k, v in t.items() if not k.startswith("text_model")})
    assert load_backbone(settings_of(CASES["CLIP"], tmp_path)).dim == 32
    with pytest.raises(InputError, match=r"lacks \d+ tensors of a 'clip' model"):
        load_backbone(settings_of(CASES["CLIP (tower: text)"], tmp_path))


def test_a_model_that_mixes_texts_and_images_is_refused(tmp_path):
    save_model(CASES["CLIP"], tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "model_type": "blip"}))
    with pytest.raises(InputError, match=r"backbone\.name"):
        outline_backbone(BackboneSettings(str(tmp_path)))


def test_a_bert_that_was_saved_by_itself_is_what_transformers_gives(folder):
    backbone = load_backbone(BackboneSettings(str(folder)))
    inputs = inputs_of(backbone)
    with torch.no_grad():
        tokens = BertModel.from_pretrained(folder).eval()(**inputs).last_hidden_state
    mask = inputs["attention_mask"][:, :, None]
    expected = (tokens * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(backbone(inputs).features, expected, atol=1e-6, rtol=0)


def test_models_that_several_threads_load_at_once_leave_transformers_as_it_was(folder):
    before = PreTrainedModel.tie_weights, torch.nn.Module.register_parameter
    with ThreadPoolExecutor(4) as pool:
        for load in (outline_backbone, load_backbone):
            list(pool.map(load, [BackboneSettings(str(folder))] * 8))
    assert (PreTrainedModel.tie_weights, torch.nn.Module.register_parameter) == before
