import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from lamina.backbones.load import load_backbone
from lamina.backbones.locate import locate
from lamina.backbones.overlay import Overlay
from lamina.backbones.settings import BackboneSettings
from lamina.core import Batch, Experience, Samples, Stream, Task
from lamina.registry import InputError

TEXTS = ["turn on the light", "what is the weather like in the north of the country today"]


def samples(values):
    number = len(values)
    return Samples(values, torch.zeros(number, dtype=torch.int64), torch.arange(number))


def test_minilm_gives_the_mean_of_the_tokens_that_transformers_gives(minilm):
    tokenizer = AutoTokenizer.from_pretrained(locate("minilm"))
    encoded = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = AutoModel.from_pretrained(locate("minilm")).eval()(**encoded).last_hidden_state
    mask = encoded["attention_mask"][:, :, None]
    ours = minilm(minilm.encode(samples(TEXTS)).inputs).features
    torch.testing.assert_close(ours, (tokens * mask).sum(1) / mask.sum(1), atol=1e-6, rtol=0)
    assert (minilm.dim, minilm.modality, minilm.pooling) == (384, "text", "mean")


def test_minilm_knows_what_sentences_mean(minilm):
    texts = ["switch the lamp on", "turn on the light", "how is the weather tomorrow"]
    features = torch.nn.functional.normalize(minilm(minilm.encode(samples(texts)).inputs).features)
    similarity = features @ features.T
    assert similarity[0, 1] > similarity[0, 2] + 0.3


def test_padding_changes_nothing(minilm):
    together = minilm.encode(samples(TEXTS))
    alone = minilm.encode(samples(TEXTS[:1]))
    assert together.inputs["input_ids"].shape[1] > alone.inputs["input_ids"].shape[1]
    torch.testing.assert_close(
        minilm(together.inputs).features[:1], minilm(alone.inputs).features, atol=1e-5, rtol=0
    )


def test_a_vision_transformer_reads_images_of_any_size(tiny_vit):
    images = [torch.randint(0, 255, shape, dtype=torch.uint8) for shape in [(8, 8, 3), (40, 20, 3)]]
    batch = tiny_vit.encode(samples(images))
    assert batch.inputs["pixel_values"].shape == (2, 3, 32, 32)
    assert tiny_vit(batch.inputs).features.shape == (2, 32)
    assert (tiny_vit.modality, tiny_vit.pooling) == ("image", "first")


def test_prompts_of_an_image_follow_its_first_token(tiny_vit):
    seen = {}
    hook = tiny_vit.model.layers[0].register_forward_pre_hook(
        lambda m, arguments: seen.update(tokens=arguments[0])
    )
    pixels = torch.randn(2, 3, 32, 32)
    hidden = tiny_vit({"pixel_values": pixels}, Overlay(prompts=[torch.full((3, 32), 7.0)]))
    hook.remove()
    assert seen["tokens"].shape == (2, 1 + 3 + 16, 32)
    assert (seen["tokens"][:, 1:4] == 7.0).all()
    assert hidden.prompts.shape == (2, 32)


def test_a_prompt_of_nothing_visible_is_left_out_of_the_mean(tiny_bert, sentences):
    hidden = tiny_bert(sentences.inputs, Overlay(prompts=[torch.zeros(4, 32)]))
    assert hidden.features.shape == (6, 32)
    assert hidden.prompts.shape == (6, 32)
    assert (hidden.features - hidden.prompts).abs().max() > 1e-3


def test_bfloat16_weights_give_float32_features(tiny_bert_folder, tiny_bert, sentences):
    half = load_backbone(BackboneSettings(str(tiny_bert_folder), dtype="bfloat16"))
    assert next(half.model.parameters()).dtype == torch.bfloat16
    features = half(sentences.inputs).features
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, tiny_bert(sentences.inputs).features, atol=0.1, rtol=0.1)


def test_a_backbone_larger_than_its_device_is_spread_by_accelerate(minilm):
    small = load_backbone(BackboneSettings("minilm", max_memory_gb=0.03))
    places = {str(place) for place in small.model.hf_device_map.values()}
    assert "disk" in places
    inputs = minilm.encode(samples(TEXTS)).inputs
    torch.testing.assert_close(small(inputs).features, minilm(inputs).features, atol=1e-5, rtol=0)


def test_adapters_train_on_a_spread_backbone(minilm):
    from lamina.adapters import kind_class
    from lamina.core import generator_of

    small = load_backbone(BackboneSettings("minilm", max_memory_gb=0.03))
    inputs = minilm.encode(samples(TEXTS)).inputs
    gradients = []
    for backbone in (small, minilm):
        kind = kind_class("lora")(rank=2)
        tensors = kind.initialise(backbone, generator_of(0, "test"))
        tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
        backbone(inputs, kind.overlay(tensors, backbone)).features.square().sum().backward()
        gradients.append([tensor.grad for tensor in tensors.values()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-3)


def test_max_length_cuts_long_texts(tiny_bert_folder):
    backbone = load_backbone(BackboneSettings(str(tiny_bert_folder), max_length=5))
    assert backbone.encode(samples(TEXTS)).inputs["input_ids"].shape == (2, 5)


def test_digest_tells_weights_apart(tiny_bert, minilm, tiny_bert_folder):
    again = load_backbone(BackboneSettings(str(tiny_bert_folder)))
    assert tiny_bert.digest == again.digest != minilm.digest


def test_a_stream_of_the_wrong_modality_is_refused(tiny_bert):
    part = samples([torch.zeros(8, 8, 3, dtype=torch.uint8)])
    task = Task(0, "only", (0,))
    stream = Stream("pictures", "joint", "image", ("a",), (Experience(task, part, part, part),))
    with pytest.raises(InputError, match="reads texts, but the stream 'pictures' is of images"):
        tiny_bert.encode_stream(stream)


def test_an_encoded_stream_knows_its_tasks(tiny_bert):
    part = samples(TEXTS)
    task = Task(0, "only", (0,))
    stream = Stream("texts", "joint", "text", ("a",), (Experience(task, part, part, part),))
    encoded = tiny_bert.encode_stream(stream).experiences[0]
    assert isinstance(encoded.train, Batch)
    assert encoded.train.task == encoded.test.task == encoded.task == task


def test_the_tasks_of_an_encoded_stream_know_what_their_classes_are_called(tiny_bert):
    part = samples(TEXTS)
    task = Task(1, "second", (2, 0))
    names = ("weather", "music", "light")
    stream = Stream("texts", "joint", "text", names, (Experience(task, part, part, part),))
    encoded = tiny_bert.encode_stream(stream).experiences[0]
    assert encoded.task.class_names == encoded.train.task.class_names == ("light", "weather")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilmm", "'minilmm' is unknown; did you mean 'minilm'"),
        ("nobody/nothing", "neither a folder that exists nor on the Hugging Face hub"),
        ("./nowhere", "there is no folder './nowhere'"),
    ],
)
def test_a_backbone_that_is_not_there_is_one_clear_line(name, message):
    with pytest.raises(InputError, match=r"backbone\.name") as error:
        locate(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_model_is_one_clear_line(tmp_path):
    with pytest.raises(InputError, match="holds no model that transformers can load") as error:
        locate(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "settings", [{"max_length": 0}, {"max_memory_gb": -1.0}], ids=["length", "memory"]
)
def test_a_setting_out_of_range_is_refused_by_its_key(settings):
    with pytest.raises(InputError, match=f"backbone.{next(iter(settings))}"):
        BackboneSettings("minilm", **settings)
