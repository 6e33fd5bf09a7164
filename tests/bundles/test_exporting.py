"""What is exported is of use without Lamina."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from bundle_cases import calls_job, mapping_of, new_learner, write_data
from lamina.bundles import load_predictor, open_bundle, write_bundle
from lamina.bundles.exporting import export_bundle
from lamina.config import build_learner
from lamina.registry import InputError
from language_models import ASKED, ROOMS, calls_stream, language_backbone
from nouns import NOUNS, PHRASES

TEXTS = [phrase.format(noun) for phrase in PHRASES for noun in NOUNS]
WITHOUT_LAMINA = """
import json, sys
sys.modules["lamina"] = None
import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer, pipeline

texts, (classifier, base, adapter) = json.load(sys.stdin), sys.argv[1:]
answer = pipeline("text-classification", classifier, trust_remote_code=True)
answers = answer(texts, truncation=True, top_k=None)

model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).eval()
inputs = AutoTokenizer.from_pretrained(base)(texts, padding=True, return_tensors="pt")
with torch.no_grad():
    tokens = model(**inputs).last_hidden_state
weights = inputs["attention_mask"][:, :, None]
features = (tokens * weights).sum(1) / weights.sum(1)
print(json.dumps([answers, features.tolist()]))
"""

SAYS_WITHOUT_LAMINA = """
import json, sys
sys.modules["lamina"] = None
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

folder, *names = sys.argv[1:]
first, *others = [f"{folder}/adapters/{name}" for name in names]
config = json.load(open(f"{first}/adapter_config.json"))
is_causal = config["task_type"] == "CAUSAL_LM"
whole = AutoModelForCausalLM if is_causal else AutoModelForSeq2SeqLM
model = whole.from_pretrained(config["base_model_name_or_path"])
model = PeftModel.from_pretrained(model, first, names[0])
for name, each in zip(names[1:], others):
    model.load_adapter(each, name)
if others:
    model.base_model.set_adapter(names)
tokenizer = AutoTokenizer.from_pretrained(f"{folder}/tokenizer")
said = []
for text in json.load(sys.stdin):
    prompt = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    tokens = model.eval().generate(
        **prompt, do_sample=False, max_new_tokens=8, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    answer = tokens[0, prompt["input_ids"].shape[1]:] if is_causal else tokens[0]
    said.append(tokenizer.decode(answer, skip_special_tokens=True))
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def export(tiny_bert, tiny_bert_folder, tmp_path_factory):
    """A strategy's bundle after two tasks, exported."""
    data = write_data(tmp_path_factory.mktemp("data") / "begun", range(2))

    def exported(name: str, **sections):
        job, learner = new_learner(mapping_of(name, data, tiny_bert_folder, **sections), tiny_bert)
        list(learner.learn())
        folder = tmp_path_factory.mktemp(name)
        write_bundle(job, learner, folder / "bundle", name=name, trial=f"{name}-0")
        return export_bundle(open_bundle(folder / "bundle"), folder / "out")

    return exported


def test_plain_transformers_and_peft_give_the_same_answers_without_lamina(export):
    done = export("ewc")
    assert done.not_plain is None
    adapter = done.folder / "adapters" / "main"
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert Path(base).is_dir()
    asked = subprocess.run(
        [sys.executable, "-c", WITHOUT_LAMINA, done.folder / "classifier", base, adapter],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    answers, features = json.loads(asked.stdout.splitlines()[-1])
    predictor = load_predictor(open_bundle(done.folder))
    for own, other in zip(predictor.predict(TEXTS, top_k=4), answers, strict=True):
        assert own.label == other[0]["label"]
        scores = {each["label"]: each["score"] for each in other}
        assert all(scores[label] == pytest.approx(score, abs=1e-4) for label, score in own.top)
    with torch.no_grad():
        ours = predictor.model(predictor.encode(TEXTS).inputs).features
    torch.testing.assert_close(ours, torch.tensor(features), atol=1e-4, rtol=1e-4)


def test_adapters_that_lie_one_over_the_other_are_merged_into_one_model(export):
    done = export("olora")
    assert len(list((done.folder / "adapters").iterdir())) > 1
    plain = AutoModelForSequenceClassification.from_pretrained(
        done.folder / "classifier", trust_remote_code=True
    )
    predictor = load_predictor(open_bundle(done.folder))
    data = predictor.encode(TEXTS)
    with torch.no_grad():
        found = plain.eval()(**data.inputs).logits
    torch.testing.assert_close(found, predictor.logits(data).logits, atol=1e-4, rtol=1e-4)


def test_what_is_more_than_a_head_says_why_it_is_no_plain_classifier(export):
    done = export("ncm")
    assert "'ncm' answers by more than a head" in str(done.not_plain)
    assert not (done.folder / "classifier").exists()
    assert "There is no plain classifier" in (done.folder / "README.md").read_text()
    kept = export("finetune", adapter={"kind": "bottleneck"})
    assert "PEFT has no adapter of kind 'bottleneck'" in str(kept.not_plain)


def test_the_card_says_data_method_numbers_and_how_to_load(export):
    from huggingface_hub import ModelCard

    done = export("er")
    card = ModelCard.load(done.folder / "README.md")
    assert card.data.library_name == "lamina"
    assert "continual-learning" in card.data.tags
    text = card.text
    for expected in ("| task 0 | door, light | 10 | 2 | 4 |", "average accuracy:", "peft", "ER"):
        assert expected in text


def test_an_export_is_never_written_over_something(export, tmp_path):
    done = export("linear_probe")
    with pytest.raises(InputError, match="is there already"):
        export_bundle(open_bundle(done.folder), done.folder)


def test_a_damaged_bundle_is_not_exported(export, tmp_path):
    done = export("slda")
    path = done.folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        export_bundle(open_bundle(done.folder), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "strategy", "kind"),
    [("gpt2", "olora", "lora"), ("qwen2", "finetune", "prefix"), ("t5", "finetune", "lora")],
)
def test_a_language_model_says_the_same_under_plain_peft(model, strategy, kind, tmp_path):
    backbone = language_backbone(model, tmp_path / "model")
    given = {"name": str(tmp_path / "model"), "tower": backbone.settings.tower}
    job = calls_job(strategy, tmp_path / "model", adapter={"kind": kind}, backbone=given)
    learner = build_learner(job, calls_stream(backbone), backbone)
    list(learner.learn())
    write_bundle(job, learner, tmp_path / "bundle", name=strategy, trial=f"{strategy}-0")
    done = export_bundle(open_bundle(tmp_path / "bundle"), tmp_path / "out")
    assert done.not_plain is None
    predictor = load_predictor(open_bundle(done.folder))
    active = predictor.model.active
    config = json.loads((done.folder / "adapters" / active[0] / "adapter_config.json").read_text())
    is_causal = model != "t5"
    assert config["task_type"] == ("CAUSAL_LM" if is_causal else "SEQ_2_SEQ_LM")
    prompts = [form.format(room) for form in ASKED for room in ROOMS]
    asked = subprocess.run(
        [sys.executable, "-c", SAYS_WITHOUT_LAMINA, done.folder, *active],
        input=json.dumps(prompts),
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    ours = [each.text for each in predictor.generate(prompts, max_new_tokens=8)]
    assert json.loads(asked.stdout.splitlines()[-1]) == ours
    assert len(set(ours)) > 1
    bare = backbone.generate(backbone.inputs.encode_prompts(prompts, 8), max_new_tokens=8)
    assert ours != backbone.inputs.texts_of(bare)
    card = (done.folder / "README.md").read_text()
    assert ("AutoModelForCausalLM" if is_causal else "AutoModelForSeq2SeqLM") in card
    assert "pipeline_tag: text-generation" in card
