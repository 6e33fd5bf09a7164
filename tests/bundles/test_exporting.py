"""What is exported is of use without Lamina."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bundle_cases import mapping_of, new_learner, write_data
from lamina.bundles import load_predictor, open_bundle, write_bundle
from lamina.bundles.exporting import export_bundle
from lamina.registry import InputError
from nouns import NOUNS, PHRASES

TEXTS = [phrase.format(noun) for phrase in PHRASES for noun in NOUNS]
WITHOUT_LAMINA = """
import json, sys
sys.modules["lamina"] = None
from transformers import pipeline
answer = pipeline("text-classification", sys.argv[1], trust_remote_code=True)
print(json.dumps(answer(json.load(sys.stdin), truncation=True, top_k=None)))
"""
WITH_PEFT = """
import json, sys
sys.modules["lamina"] = None
import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer
base, adapter = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), adapter).eval()
tokenizer = AutoTokenizer.from_pretrained(base)
inputs = tokenizer(json.load(sys.stdin), padding=True, return_tensors="pt")
with torch.no_grad():
    tokens = model(**inputs).last_hidden_state
weights = inputs["attention_mask"][:, :, None]
print(json.dumps(((tokens * weights).sum(1) / weights.sum(1)).tolist()))
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


def asked_of(script: str, *words) -> list:
    """What a script prints of the texts, in a Python that has no Lamina."""
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["finetune", "olora"])
def test_a_plain_adapter_with_a_head_is_a_pipeline_of_transformers(name, export):
    done = export(name)
    assert done.not_plain is None
    predictor = load_predictor(open_bundle(done.folder))
    ours = predictor.predict(TEXTS, top_k=4)
    theirs = asked_of(WITHOUT_LAMINA, done.folder / "classifier")
    for own, other in zip(ours, theirs, strict=True):
        assert own.label == other[0]["label"]
        scores = {each["label"]: each["score"] for each in other}
        for label, score in own.top:
            assert scores[label] == pytest.approx(score, abs=1e-4)


def test_the_adapter_alone_gives_the_same_features_in_plain_peft(export, tiny_bert):
    done = export("ewc")
    predictor = load_predictor(open_bundle(done.folder))
    with torch.no_grad():
        ours = predictor.model(predictor.encode(TEXTS).inputs).features
    facts = json.loads((done.folder / "adapters" / "main" / "adapter_config.json").read_text())
    assert Path(facts["base_model_name_or_path"]).is_dir()
    theirs = asked_of(
        WITH_PEFT, facts["base_model_name_or_path"], done.folder / "adapters" / "main"
    )
    torch.testing.assert_close(ours, torch.tensor(theirs), atol=1e-4, rtol=1e-4)


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
    assert not (tmp_path / "out").exists()
