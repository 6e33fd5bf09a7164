"""Which tuners of the installed PEFT work through a job, as the Markdown table of
platform/README.md:

    python tests/helpers/peft_table.py

Each tuner is trained as `lamina run` does and held to what `check` lists. What is refused, is
refused when the job is read, with the reason that stands in the table.
"""

import os
import re
import sys
import warnings
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
import transformers
import yaml
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from lamina.adapters.kinds._peft_tuners import REFUSED
from lamina.adapters.model import MAIN
from lamina.adapters.peft_format import export_adapter
from lamina.backbones.load import load_backbone
from lamina.backbones.locate import locate
from lamina.backbones.overlay import Overlay, StandIn
from lamina.config import Job, build_learner, check_components, load_job
from lamina.core import Samples, Stream
from lamina.losses import cross_entropy
from lamina.registry import InputError
from lamina.training.checkpoint import pack, unpack

PHRASES = (
    "turn on the {}",
    "{} please",
    "what about the {}",
    "stop the {} now",
    "is there a {} in the kitchen",
    "I want the {}",
    "check the {} in the living room please",
    "start my {}",
)
NOUNS = ("light", "door", "timer", "song")


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    peft_type: str
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        given = ", ".join(f"{key}: {value}" for key, value in self.config.items())
        return f"{self.peft_type} {{{given}}}" if given else self.peft_type


NEEDED: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 64},
    "TRAINABLE_TOKENS": {"token_indices": [2422, 2341, 25309]},
    "VBLORA": {"vector_length": 64, "num_vectors": 32},
}
"""What a tuner does not do without."""

VARIANTS = (
    Case("VERA", {"r": 64}),
    Case("LORA", {"use_dora": True}),
    Case("LORA", {"use_rslora": True}),
    Case("LORA", {"init_lora_weights": "orthogonal"}),
    Case("LORA", {"init_lora_weights": "pissa"}),
    Case("LORA", {"init_lora_weights": "olora"}),
    Case("LORA", {"init_lora_weights": "eva"}),
    Case("LORA", {"kasa_config": {}}),
    Case("LORA", {"lora_dropout": 0.1}),
    Case("LORA", {"bias": "all"}),
    Case("ADAMSS", {"use_asa": True}),
    Case("HRA", {"apply_GS": True}),
    Case("LOKR", {"decompose_both": True}),
    Case("OFT", {"coft": True}),
    Case("ROAD", {"variant": "road_4"}),
)

CASES = (*(Case(each.value, NEEDED.get(each.value, {})) for each in peft.PeftType), *VARIANTS)


def make_files(folder: Path) -> None:
    """A random BERT (2 layers, width 128) and a table of sentences."""
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=128, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256
    )
    BertModel(config).save_pretrained(folder / "bert")
    AutoTokenizer.from_pretrained(locate("minilm")).save_pretrained(folder / "bert")
    rows = [f"{phrase.format(noun)},{noun}" for phrase in PHRASES for noun in NOUNS]
    (folder / "data.csv").write_text("text,label\n" + "\n".join(rows) + "\n")


def job_file(case: Case, folder: Path) -> Path:
    """A job of two tasks with this tuner, on the files that are in `folder`."""
    path = folder / "job.yaml"
    job = {
        "stream": {
            "name": "huggingface",
            "path": str(folder / "data.csv"),
            "text_column": "text",
            "label_column": "label",
        },
        "scenario": {"kind": "class_incremental", "num_tasks": 2},
        "backbone": {"name": str(folder / "bert")},
        "adapter": {"kind": "peft", "peft_type": case.peft_type, "config": case.config},
        "strategy": {"name": "finetune"},
        "memory": None,
        "training": {"epochs": 3, "batch_size": 4, "learning_rate": 3e-3},
        "hosts": {"features_gb": 0},
        "tracking": {"enabled": False},
        "output_dir": str(folder / "out"),
    }
    path.write_text(yaml.safe_dump(job))
    return path


def verdict(case: Case, folder: Path) -> str:
    """`works`, or `refused: ` and why. Raises AssertionError where a tuner is taken and does not
    work."""
    try:
        job = load_job(job_file(case, folder), [])
        (raw,) = check_components([job])
    except InputError as error:
        return f"refused: {error}"
    check(job, raw, folder / "adapters")
    return "works"


@torch.no_grad()
def check(job: Job, raw: Stream[Samples], adapters: Path) -> None:
    """That the tuner of a job, trained as `lamina run` trains it, learns, goes on bit-equal from a
    checkpoint, answers a row whatever stands beside it, leaves the backbone as it was, and gives
    the same features in plain PEFT."""
    backbone = load_backbone(job.backbone)
    frozen = {name: each.clone() for name, each in backbone.model.state_dict().items()}
    stream = backbone.encode_stream(raw)

    learner = build_learner(job, stream, backbone)
    data = stream.experiences[0].train
    learner.model.grow_head(2)
    start = {k: each.clone() for k, each in learner.model.adapters[MAIN].tensors.items()}
    before = cross_entropy(learner.model(data.inputs).logits, data.labels)
    reports = learner.learn()
    with torch.enable_grad():
        next(reports)
    after = cross_entropy(learner.model(data.inputs).logits, data.labels, classes=[0, 1])
    assert after < before, "the loss does not fall"
    learned = learner.model.adapters[MAIN].tensors
    assert any(not torch.equal(learned[name], each) for name, each in start.items()), "still"

    resumed = build_learner(job, stream, backbone)
    resumed.load_state_dict(unpack(pack(learner.state_dict())))
    with torch.enable_grad():
        list(reports)
        list(resumed.learn())
    same, inputs = resumed.model.adapters[MAIN].tensors, data.inputs
    for name, each in learner.model.adapters[MAIN].tensors.items():
        assert torch.equal(same[name], each), f"{name} is another from a checkpoint on"

    together = learner.model(inputs).features
    alone = torch.cat(
        [learner.model(data[slice(i, i + 1)].trimmed().inputs).features for i in range(len(data))]
    )
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)

    now = backbone.model.state_dict()
    assert all(torch.equal(now[name], each) for name, each in frozen.items()), "backbone moved"
    trained = learner.model.adapters[MAIN]
    export_adapter(trained.kind, trained.tensors, backbone, adapters / MAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = AutoModel.from_pretrained(job.backbone.name).eval()
        plain = peft.PeftModel.from_pretrained(base, adapters / MAIN).eval().base_model.model
    theirs = backbone(inputs, Overlay(stand_in=StandIn(plain, {}))).features
    torch.testing.assert_close(theirs, together, atol=1e-5, rtol=1e-5)


def row(case: Case, found: str) -> str:
    """A row of the table; of a refusal the reason, without the key that it names."""
    given = ", ".join(f"{key}: {value}" for key, value in case.config.items())
    short = re.sub(r"^refused: adapter\.[\w.]+: (\w+ is refused: )?", "refused: ", found)
    return f"| {case.peft_type} | {f'`{given}`' if given else ''} | {short} |"


def versions() -> str:
    """What the table was made with."""
    return f"peft {peft.__version__}, transformers {transformers.__version__}, torch " + str(
        torch.__version__
    )


def table() -> str:
    """The whole section, heading left out."""
    rows = []
    with TemporaryDirectory(prefix="lamina-peft-") as name:
        make_files(Path(name))
        for case in sorted(CASES, key=lambda each: (each.peft_type in REFUSED, each.peft_type)):
            rows.append(row(case, verdict(case, Path(name))))
    head = [
        f"Made on {date.today():%d %B %Y} by `python tests/helpers/peft_table.py` ({versions()}).",
        "",
        "| `peft_type` | `config` | |",
        "|---|---|---|",
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    sys.stdout.write(table() + "\n")
