"""Strategies trained by two data-parallel processes that talk through gloo, and by one."""

import json
from hashlib import sha256
from pathlib import Path

import torch

from lamina.backbones.backbone import BackboneSettings
from lamina.backbones.load import load_backbone
from lamina.federation.update import LORA_A, LORA_B
from lamina.strategies import strategy_class
from lamina.training.checkpoint import pack, unpack
from lamina.training.settings import TrainingSettings
from lamina.training.workers import ProcessGroup
from nouns import as_scenario, make_learner, nouns_stream

TRAINING = TrainingSettings(epochs=1, batch_size=4, optimizer="sgd", learning_rate=1e-2)
"""SGD, which hands a rounding on as it is; Adam would make a step of a gradient of 1e-9."""


def train_by_two(names, backbone_folder: Path, folder: Path) -> dict[str, list[dict]]:
    """What each of two workers had after the stream, by strategy: a digest of what it learned, R of
    the test part, and its tensors."""
    arguments = (list(names), str(backbone_folder), str(folder))
    torch.multiprocessing.spawn(_train, arguments, nprocs=2)
    found = [json.loads((folder / f"worker_{rank}.json").read_text()) for rank in range(2)]
    for rank, each in enumerate(found):
        for name in names:
            each[name]["tensors"] = unpack((folder / f"{name}_{rank}").read_bytes())
    return {name: [each[name] for each in found] for name in names}


def train_by_one(name, backbone):
    """The same by one process: its tensors, and R of the test part."""
    learner = _learner(name, nouns_stream(backbone), backbone)
    last = list(learner.learn())[-1]
    return {"tensors": tensors_of(learner), "test": last.test}


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


def _learner(name, stream, backbone, workers=None):
    stream = as_scenario(stream, strategy_class(name).scenarios[0])
    return make_learner(name, stream, backbone, training=TRAINING, workers=workers)


def _train(rank: int, names: list[str], backbone_folder: str, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    backbone = load_backbone(BackboneSettings(backbone_folder))
    stream = nouns_stream(backbone)
    found = {}
    for name in names:
        learner = _learner(name, stream, backbone, workers=ProcessGroup())
        last = list(learner.learn())[-1]
        Path(folder, f"{name}_{rank}").write_bytes(pack(tensors_of(learner)))
        found[name] = {"learned": digest_of_learned(learner), "test": last.test}
    Path(folder, f"worker_{rank}.json").write_text(json.dumps(found))
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
