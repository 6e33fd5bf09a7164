"""What language models say behind prompts."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.kinds.prefix import Prefix
from lamina.adapters.kinds.prompt import Prompt
from lamina.adapters.model import AdaptedModel
from lamina.backbones.calls import Call
from lamina.backbones.decoding import decoded_by, left_padded
from lamina.backbones.language_head import LanguageHead
from lamina.backbones.packing import meeting
from lamina.core import ANSWER_AT, IGNORED
from lamina.registry import InputError
from language_models import CONFIGS, language_backbone

MOST = 7
PROMPTS = ["kitchen", "turn it on in the attic please", "the cellar", "I am in the garage now"]
KINDS = {"none": None, "lora": LoRA(rank=2), "prefix": Prefix(3), "prompt": Prompt(3)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Each tiny model's folder and backbone, made once."""
    made = {}

    def of(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            made[name] = folder, language_backbone(name, folder)
        return made[name]

    return of


def adapted(backbone, kind, seed=1) -> AdaptedModel:
    """Under an adapter that changes answers."""
    model = AdaptedModel(backbone, KINDS[kind], seed=0)
    adapter = model.add()
    generator = torch.Generator().manual_seed(seed)
    if adapter is not None:
        with torch.no_grad():
            for tensor in adapter.tensors.values():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
    return model


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in CONFIGS for kind in KINDS),
        *((name, kind) for name in ("t5", "bart") for kind in ("none", "lora")),
    ],
)
def test_each_token_is_the_best_one_and_company_changes_none(name, kind, models):
    backbone = models(name)[1]
    model = adapted(backbone, kind)
    inputs = backbone.inputs.encode_prompts(PROMPTS, MOST)
    together = model.generate(inputs, MOST)
    assert together.shape == (len(PROMPTS), MOST)
    read_again = decoded_by(
        lambda rows: model(rows).logits, inputs, max_new_tokens=MOST, end=backbone.inputs.end_token
    )
    assert torch.equal(together, read_again)
    for row, prompt in enumerate(PROMPTS):
        alone = model.generate(backbone.inputs.encode_prompts([prompt], MOST), MOST)[0]
        assert torch.equal(alone, together[row, : len(alone)])
    assert len({tuple(row) for row in together.tolist()}) > 1


@pytest.mark.parametrize("name", list(CONFIGS))
def test_it_is_what_transformers_generates(name, models):
    folder, backbone = models(name)
    whole = AutoModelForCausalLM.from_pretrained(folder).eval()
    prompts = left_padded(backbone.inputs.encode_prompts(PROMPTS, MOST))
    theirs = whole.generate(
        **prompts, max_new_tokens=MOST, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    inputs = backbone.inputs.encode_prompts(PROMPTS, MOST)
    ours = AdaptedModel(backbone, None, 0).generate(inputs, MOST)
    assert torch.equal(ours, theirs[:, prompts["input_ids"].shape[1] :])


def test_an_answer_ends_in_its_end_token(models, monkeypatch):
    backbone = models("llama")[1]
    inputs = backbone.inputs.encode_prompts(PROMPTS, MOST)
    model = adapted(backbone, "lora")
    free = model.generate(inputs, MOST)
    monkeypatch.setattr(type(backbone.inputs), "end_token", int(free[1, 2]))
    stopped = model.generate(inputs, MOST)
    assert stopped[1].tolist()[:3] == free[1].tolist()[:3]
    assert set(stopped[1].tolist()[3:]) <= {IGNORED}
    by_logits = decoded_by(
        lambda rows: model(rows).logits, inputs, max_new_tokens=MOST, end=backbone.inputs.end_token
    )
    assert torch.equal(stopped, by_logits)


@pytest.mark.parametrize(
    ("name", "kind"), [*(("llama", kind) for kind in KINDS), ("t5", "lora"), ("bart", "prompt")]
)
def test_overlays_decode_together_as_they_do_alone(name, kind, models):
    backbone = models(name)[1]
    inputs = backbone.inputs.encode_prompts(PROMPTS, MOST)
    calls = [
        Call(inputs, adapted(backbone, kind, seed).overlay(), max_new_tokens)
        for seed, max_new_tokens in ((1, MOST), (2, 3))
    ]
    assert meeting(calls[0], backbone.architecture) == meeting(calls[1], backbone.architecture)
    with torch.no_grad():
        packed = backbone.run_together(calls)
        for call, found in zip(calls, packed, strict=True):
            assert torch.equal(found.generated, backbone.run(call).generated)
    assert packed[1].generated.shape == (len(PROMPTS), 3)
    assert kind == "none" or not torch.equal(packed[0].generated[:, :3], packed[1].generated)


def test_a_row_that_may_say_no_more_keeps_no_other_waiting(models, monkeypatch):
    backbone = models("llama")[1]
    inputs = backbone.inputs.encode_prompts(PROMPTS[:2], MOST)
    overlay = adapted(backbone, "lora").overlay()
    free = backbone.run(Call(inputs, overlay, MOST)).generated
    steps = []
    monkeypatch.setattr(type(backbone.inputs), "end_token", int(free[0, 2]))
    head = LanguageHead.__call__
    monkeypatch.setattr(
        LanguageHead, "__call__", lambda self, h: steps.append(len(h)) or head(self, h)
    )
    said = backbone.run(Call(inputs, overlay, MOST, limits=torch.tensor([MOST, 2]))).generated
    ends = free[0].tolist().index(int(free[0, 2])) + 1
    assert said[0].tolist()[:ends] == free[0].tolist()[:ends]
    assert said[1].tolist()[2:] == [IGNORED] * (said.shape[1] - 2)
    assert len(steps) == max(ends, 2)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((name, kind) for name in CONFIGS for kind in KINDS), ("t5", "lora"), ("bart", "none")],
)
def test_rows_that_have_ended_leave_and_change_no_other(name, kind, models, monkeypatch):
    backbone = models(name)[1]
    overlay = adapted(backbone, kind).overlay()
    limits = torch.tensor([2, MOST, 4, 1])
    inputs = backbone.inputs.encode_prompts(PROMPTS, MOST)
    whole = backbone.run(Call(inputs, overlay, MOST)).generated
    asked, head = [], LanguageHead.__call__
    monkeypatch.setattr(
        LanguageHead, "__call__", lambda self, h: asked.append(len(h)) or head(self, h)
    )
    said = backbone.run(Call(inputs, overlay, MOST, limits=limits)).generated
    assert asked == [4, 4, 2, 2, 1, 1, 1]
    for row, number in enumerate(limits.tolist()):
        assert torch.equal(said[row, :number], whole[row, :number])
        assert set(said[row, number:].tolist()) <= {IGNORED}
    with torch.no_grad():
        first, second = backbone.run_together(
            [Call(inputs, overlay, MOST, limits=each) for each in (limits, limits.flip(0))]
        )
    assert torch.equal(first.generated, said)
    assert torch.equal(second.generated[0, :1], whole[0, :1])


def test_prompts_are_those_of_encoded_rows_and_leave_room_for_answers(models):
    backbone = models("llama")[1]
    inputs = backbone.inputs.encode_prompts(["one two three", "four"], MOST)
    words = backbone.inputs.encoder.tokenizer(["one two three", "four"])["input_ids"]
    assert inputs[ANSWER_AT].tolist() == [len(each) for each in words]
    with pytest.raises(InputError, match="leaves no room for a prompt"):
        backbone.inputs.encode_prompts(["one"], 10_000)


def test_texts_of_answers_have_no_special_tokens(models):
    backbone = models("llama")[1]
    tokens = backbone.inputs.encoder.tokenizer("light on", add_special_tokens=False)["input_ids"]
    row = torch.tensor([[*tokens, backbone.inputs.end_token, IGNORED]])
    assert backbone.inputs.texts_of(row) == ["light on"]
