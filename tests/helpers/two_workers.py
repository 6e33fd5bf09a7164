"""Strategies trained by two data-parallel processes that talk through gloo, and by one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch

from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.federation.update import LORA_A, LORA_B
from lamina.strategies import strategy_class
from lamina.training.checkpoint import pack, unpack
from lamina.training.settings import TrainingSettings
from lamina.training.workers import ProcessGroup
from language_models import UNEVEN, be_brief, calls_stream, loaded
from nouns import as_scenario, make_learner, nouns_stream

TRAINING = TrainingSettings(epochs=1, batch_size=4, optimizer="sgd")
"""SGD, which hands a rounding on as it is; Adam would make a step of a gradient of 1e-9."""


@dataclass(frozen=True)
class Case:
    """A strategy on a backbone, which learns nouns, or calls if it is a language model."""

    strategy: str
    folder: Path
    model: str | None = None
    """Which of the tiny language models it is."""
    rate: float = 1e-2
    """The learning rate."""
    eagerness: float | None = None
    """Of the language model to end what it says; None: as it is."""
    settings: tuple[tuple[str, float], ...] = ()
    """The strategy's own, by name."""

    def learner(self, workers=None):
        backbone = _backbone(self.model, self.folder, self.eagerness)
        stream = nouns_stream(backbone) if self.model is None else calls_stream(backbone, UNEVEN)
        if self.model is None:
            stream = as_scenario(stream, strategy_class(self.strategy).scenarios[0])
        training = replace(TRAINING, learning_rate=self.rate)
        own = dict(self.settings)
        return make_learner(
            self.strategy, stream, backbone, training=training, workers=workers, **own
        )


@cache
def _backbone(model: str | None, folder: Path, eagerness: float | None):
    if model is None:
        return load_backbone(BackboneSettings(str(folder)))
    backbone = loaded(model, folder)
    if eagerness is not None:
        be_brief(backbone, calls_stream(backbone).experiences[0].train, eagerness)
    return backbone


def train_by_two(cases: Sequence[Case], folder: Path) -> dict[Case, list[dict]]:
    """What each of two workers had after the stream: a digest of what it learned, R of the test
    part, and its tensors."""
    torch.multiprocessing.spawn(_train, (list(cases), folder), nprocs=2)
    found = [json.loads((folder / f"worker_{rank}.json").read_text()) for rank in range(2)]
    for rank, each in enumerate(found):
        for number, one in enumerate(each):
            one["tensors"] = unpack((folder / f"{number}_{rank}").read_bytes())
    return {case: [each[number] for each in found] for number, case in enumerate(cases)}


def train_by_one(case: Case):
    """The same by one process: its tensors, R of the test part, and what the strategy keeps."""
    learner = case.learner()
    last = list(learner.learn())[-1]
    kept = learner.strategy.state
    return {"tensors": tensors_of(learner), "test": last.test, "kept": kept}


def tensors_of(learner) -> dict:
    """Of its adapters and heads."""
    return {
        f"{group}.{name}": tensor.detach()
        for group, adapter in learner.model.adapters.items()
        for name, tensor in adapter.tensors.items()
    }


def with_products(tensors) -> dict:
    """Tensors with the product B A of each LoRA in place of its factors: a rounding may turn the
    signs of both (InfLoRA takes singular vectors), and the update is the same."""
    found = {}
    for name, tensor in tensors.items():
        if name.endswith(LORA_A):
            module = name.removesuffix(LORA_A)
            found[module + "B A"] = tensors[module + LORA_B] @ tensor
        elif not name.endswith(LORA_B):
            found[name] = tensor
    return found


def _train(rank: int, cases: list[Case], folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    found = []
    for number, case in enumerate(cases):
        learner = case.learner(ProcessGroup())
        last = list(learner.learn())[-1]
        (folder / f"{number}_{rank}").write_bytes(pack(tensors_of(learner)))
        found.append({"learned": digest_of_learned(learner), "test": last.test})
    (folder / f"worker_{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def digest(learner) -> str:
    """Of everything that a learner knows, but for the time it took."""
    state = learner.state_dict()
    for name in ("train_seconds", "evaluation_seconds"):
        state["scores"]["costs"].pop(name)
    return sha256(pack(state)).hexdigest()


def digest_of_learned(learner) -> str:
    """The same without its costs, which every worker counts on its own share of the rows."""
    state = learner.state_dict()
    state["scores"].pop("costs")
    return sha256(pack(state)).hexdigest()
