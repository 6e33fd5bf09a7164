"""Language models as backbones: answers are tokens."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.model import AdaptedModel
from lamina.backbones.encoding import TextEncoder
from lamina.backbones.language_head import LanguageHead
from lamina.backbones.load import load_backbone
from lamina.backbones.padding import with_padding
from lamina.backbones.settings import BackboneSettings
from lamina.core import ANSWER_AT, IGNORED, Batch, Conversation, Samples
from lamina.losses import cross_entropy
from lamina.registry import InputError
from language_models import CONFIGS, MORE, calls_stream, write_model


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each tiny model's folder and backbone, made once."""
    made = {}

    def of(name):
        if name not in made:
            folder = write_model(name, tmp_path_factory.mktemp(name))
            made[name] = folder, load_backbone(BackboneSettings(str(folder)))
        return made[name]

    return of


EVERY = [*CONFIGS, *MORE]


def adapted(backbone) -> AdaptedModel:
    """Under a LoRA that changes answers."""
    model = AdaptedModel(backbone, LoRA(rank=2), seed=0)
    adapter = model.add()
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            if "lora_B" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)))
    return model


@pytest.mark.parametrize("name", EVERY)
def test_logits_are_those_of_the_whole_model_at_the_answer(name, models):
    folder, backbone = models(name)
    batch = calls_stream(backbone).experiences[0].train[slice(0, 4)].trimmed()
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        ours = AdaptedModel(backbone, None, 0)(batch.inputs).logits
        theirs = whole(
            input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"]
        ).logits
    for row, (start, label) in enumerate(
        zip(batch.inputs[ANSWER_AT].tolist(), batch.labels, strict=True)
    ):
        number = int((label != IGNORED).sum())
        expected = theirs[row, start - 1 : start - 1 + number]
        torch.testing.assert_close(ours[row, :number], expected, atol=1e-4, rtol=1e-4)
        ids = batch.inputs["input_ids"][row, start : start + number]
        assert torch.equal(ids, label[:number])


def test_the_head_reads_no_token_behind_an_answer(models, monkeypatch):
    backbone = models("llama")[1]
    batch = Batch.cat([each.train for each in calls_stream(backbone).experiences])
    counted = batch.labels != IGNORED
    assert not counted.all()
    hidden = torch.randn(*counted.shape, backbone.dim, requires_grad=True)
    head, read = LanguageHead.__call__, []
    monkeypatch.setattr(
        LanguageHead, "__call__", lambda self, h: read.append(h.shape) or head(self, h)
    )
    found = backbone.language_head.of_answers(hidden, batch.inputs)
    assert read == [(int(counted.sum()), backbone.dim)]
    expected = head(backbone.language_head, hidden)
    torch.testing.assert_close(found[counted], expected[counted])
    own, naive = (
        torch.autograd.grad(cross_entropy(logits, batch.labels), hidden)[0]
        for logits in (found, expected)
    )
    torch.testing.assert_close(own, naive)


@pytest.mark.parametrize("name", EVERY)
def test_features_know_the_prompt_and_nothing_of_the_answer(name, models):
    _, backbone = models(name)
    prompts = ["turn it on in the attic", "the cellar please"]
    zeros, ids = torch.zeros(2, dtype=torch.int64), torch.arange(2)
    found = [
        backbone(backbone.encode(Samples(prompts, zeros, ids, answers)).inputs).features
        for answers in (["LightOn()", "x"], ["something else and longer", "LightOn()"])
    ]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("llama", ("q_proj", "v_proj")),
        ("gpt2", ("c_attn",)),
        ("phi3", ("qkv_proj",)),
        ("gpt_neox", ("query_key_value",)),
        ("qwen3", ("q_proj", "v_proj")),
        ("opt", ("q_proj", "v_proj")),
    ],
)
def test_lora_sits_on_queries_and_values_whatever_they_are_called(name, modules, models):
    _, backbone = models(name)
    sites = backbone.architecture.sites(None, None)
    assert len(sites) == 3 * len(modules)
    assert {site.read.rsplit(".", 1)[-1] for site in sites} == set(modules)
    adapter = AdaptedModel(backbone, LoRA(rank=2), seed=0).add()
    for site in sites:
        width, out = backbone.shape_of(site.read)
        shapes = {n: tuple(t.shape) for n, t in adapter.tensors.items() if site.read in n}
        assert sorted(shapes.values()) == sorted([(2, width), (out, 2)])


def test_the_greedy_answer_is_right_where_every_token_is(models):
    folder, backbone = models("llama")
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    batch = calls_stream(backbone).experiences[0].train[slice(0, 3)]
    start = int(batch.inputs[ANSWER_AT][0])
    prompt = batch.inputs["input_ids"][:1, :start]
    end = backbone.inputs.encoder.tokenizer.eos_token_id
    said = whole.generate(
        prompt, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    answer = said[:, start:]
    inputs = {
        "input_ids": said,
        "attention_mask": torch.ones_like(said),
        ANSWER_AT: torch.tensor([start]),
    }
    with torch.no_grad():
        logits = AdaptedModel(backbone, None, 0)(inputs).logits
    assert torch.equal(logits.argmax(dim=-1), answer)
    assert end is not None


def test_what_is_too_long_loses_the_beginning_of_its_prompt_and_nothing_of_its_answer(models):
    _, backbone = models("llama")
    encoder = replace(backbone.inputs.encoder, max_length=8)
    inputs, labels = encoder.with_answers(["one two three four five six"], ["yes no"])
    assert inputs["input_ids"].shape == (1, 8)
    assert labels.tolist()[0][-1] == encoder.tokenizer.eos_token_id
    assert inputs["input_ids"][0, -3:].tolist() == labels[0].tolist()
    with pytest.raises(InputError, match=r"answer of row 8 of the stream has 9 tokens, which leav"):
        encoder.with_answers(["why"], ["a very long answer that fills it all"], [7])
    assert (
        encoder.num_cut_prompts(["why", "one two three four five six"], ["yes", "no"], [0, 1]) == 1
    )


def test_a_chat_template_wraps_the_turns_of_a_prompt_and_the_answer_follows(models):
    _, backbone = models("llama")
    tokenizer = deepcopy(backbone.inputs.encoder.tokenizer)
    tokenizer.chat_template = (
        "{% for each in messages %}{{ each.role }} said {{ each.content }} "
        "{% endfor %}{% if add_generation_prompt %}assistant said{% endif %}"
    )
    encoder = replace(backbone.inputs.encoder, tokenizer=tokenizer)
    asked = Conversation("you there", [("system", "be short"), ("user", "you there")])
    inputs, labels = encoder.with_answers([asked], ["yes"])
    assert tokenizer.decode(inputs["input_ids"][0]) == (
        "system said be short user said you there assistant said yes [SEP]"
    )
    assert tokenizer.decode(labels[0]) == "yes [SEP]"
    with pytest.raises(InputError, match=r"stream\.template: 'chat' needs a tokenizer with"):
        backbone.inputs.encoder.with_answers([asked], ["yes"])


def test_where_the_end_token_pads_as_well_it_is_learned_and_the_padding_is_not():
    letters = Tokenizer(BPE({each: n for n, each in enumerate("abcd")}, []))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="<end>")
    encoder = TextEncoder(with_padding(tokenizer), 16, "mean")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 4
    inputs, labels = encoder.with_answers(["ab", "a"], ["cd", "b"])
    assert labels.tolist() == [[2, 3, 4], [1, 4, IGNORED]]
    assert inputs["input_ids"].tolist() == [[0, 1, 2, 3, 4], [0, 1, 4, 4, 4]]
    assert inputs["attention_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    # Nothing is asked: all of the text is predicted, the first token from the end of another.
    inputs, labels = encoder.with_answers([""], ["abc"])
    assert inputs["input_ids"].tolist() == [[4, 0, 1, 2, 4]]
    assert inputs[ANSWER_AT].tolist() == [1]
    assert labels.tolist() == [[0, 1, 2, 4]]


def test_a_model_that_is_not_causal_cannot_answer_in_tokens(tiny_bert):
    samples = Samples(["x"], torch.zeros(1, dtype=torch.int64), torch.arange(1), ["y"])
    with pytest.raises(InputError, match="'bert' model cannot answer in tokens"):
        tiny_bert.encode(samples)


def test_rows_are_cut_with_their_answers_and_left_padding_is_never_cut_off():
    labels = torch.tensor([[1, 2, IGNORED, IGNORED], [3, IGNORED, IGNORED, IGNORED]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    inputs = {"input_ids": mask * 7, "attention_mask": mask, ANSWER_AT: torch.tensor([1, 1])}
    cut = Batch(inputs, labels, torch.arange(2)).trimmed()
    assert cut.labels.shape == (2, 2)
    assert cut.inputs["input_ids"].shape == (2, 3)
    left = torch.tensor([[0, 0, 1, 1]])
    kept = Batch(
        {"input_ids": torch.arange(4)[None], "attention_mask": left}, labels[:1], torch.arange(1)
    )
    assert kept.trimmed().inputs["input_ids"].tolist() == [[0, 1, 2, 3]]


def test_the_loss_of_tokens_is_their_mean_and_no_classes_hide_any():
    logits = torch.randn(2, 3, 5)
    labels = torch.tensor([[1, 2, IGNORED], [4, IGNORED, IGNORED]])
    each = torch.stack([logits[0, 0], logits[0, 1], logits[1, 0]]).log_softmax(-1)
    expected = -(each[0, 1] + each[1, 2] + each[2, 4]) / 3
    torch.testing.assert_close(cross_entropy(logits, labels), expected)
    torch.testing.assert_close(cross_entropy(logits, labels, classes=()), expected)


@pytest.mark.parametrize("name", EVERY)
def test_a_kept_prefix_changes_no_answer_and_is_in_use(name, models, tmp_path):
    folder, bare = models(name)
    backbone = load_backbone(BackboneSettings(str(folder)))
    backbone.keep_features(tmp_path, 10**8)
    top = LoRA(rank=2, layers=(-1,))
    kept, plain = (calls_stream(each).experiences[0].train for each in (backbone, bare))
    found = []
    for each, batch in ((backbone, kept), (bare, plain)):
        model = AdaptedModel(each, top, seed=0)
        model.add()
        found.append((model(batch.inputs).logits, model.frozen_features(batch.inputs)))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-4, rtol=1e-4)
    assert torch.equal(*(logits.argmax(dim=-1) for logits, _ in found))
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-4)
    shelves = {path.parent.name for path in tmp_path.rglob("*.safetensors")}
    assert "features" in shelves
    assert any(each.endswith("_02") for each in shelves)
