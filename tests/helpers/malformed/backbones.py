"""Folders of models that are damaged. Each takes a sound folder of a small BERT, copied, and spoils
it."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Spoil = Callable[[Path], None]
WEIGHTS = "model.safetensors"


def file(name: str, content: bytes | str | None) -> Spoil:
    """Another content, or none."""

    def spoil(folder: Path) -> None:
        path = folder / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def config(**changes: object) -> Spoil:
    """Other values in the configuration."""

    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / WEIGHTS
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return spoil


def header(size: int, content: bytes = b"") -> Spoil:
    """A file of weights whose header says that it has so many bytes."""
    return file(WEIGHTS, struct.pack("<Q", size) + content)


def with_header(text: str) -> Spoil:
    return header(len(text.encode()), text.encode() + b"\0" * 64)


def pickled(folder: Path) -> None:
    """Weights as a pickle that holds more than tensors."""
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Path("/")}))


def index(**changes: object) -> Spoil:
    """Weights in several files, of which the list is wrong."""

    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
        path = folder / "model.safetensors.index.json"
        path.write_text(json.dumps({"metadata": {}} | changes))

    return spoil


TOO_LARGE = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
OVERLAP = json.dumps(
    {
        "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
    }
)
BACKBONES: dict[str, tuple[Spoil, str]] = {
    "no configuration": (file("config.json", None), "backbone.name: "),
    "an empty configuration": (file("config.json", ""), "backbone.name: "),
    "a configuration that is cut off": (file("config.json", '{"model_type": "bert"'), "backbone."),
    "a configuration of a list": (file("config.json", "[]"), "backbone.name: "),
    "a configuration that is nested a hundred thousand deep": (
        file("config.json", '{"model_type": "bert", "a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        "backbone.name: ",
    ),
    "a configuration of bytes": (file("config.json", b"\xff\xfe\0"), "backbone.name: "),
    "an unknown type of model": (config(model_type="berrt"), "backbone.name: "),
    "code of its own": (
        config(model_type="mine", auto_map={"AutoModel": "code.Model"}),
        "backbone.name: ",
    ),
    "a width of text": (config(hidden_size="wide"), "backbone.name: "),
    "a width of 0": (config(hidden_size=0), "backbone.name: "),
    "a negative width": (config(hidden_size=-32), "backbone.name: "),
    "heads that do not divide the width": (config(num_attention_heads=5), "backbone.name: "),
    "more layers than weights": (config(num_hidden_layers=5), "lacks 48 tensors"),
    "another width than the weights": (config(hidden_size=64), "lacks "),
    "an unknown activation": (config(hidden_act="gelluu"), "backbone.name: "),
    "a vocabulary of 10 tokens": (config(vocab_size=10), "backbone.name: "),
    "no weights": (file(WEIGHTS, None), "backbone.name: "),
    "empty weights": (file(WEIGHTS, b""), "damaged or cut off"),
    "weights that are text": (file(WEIGHTS, "hello, these are weights"), "damaged or cut off"),
    "a header of 10 GB": (header(10 * 2**30), "damaged or cut off"),
    "a header of 2^64 bytes": (header(2**64 - 1), "damaged or cut off"),
    "a header that is no JSON": (with_header("{no"), "damaged or cut off"),
    "a header nested a million deep": (with_header("[" * 10**6 + "]" * 10**6), "damaged or cut"),
    "a tensor of four terabytes": (with_header(TOO_LARGE), "damaged or cut off"),
    "tensors that overlap": (with_header(OVERLAP), "damaged or cut off"),
    "a layer that is missing": (
        weights(lambda t: {k: v for k, v in t.items() if ".layer.1." not in k}),
        "lacks 16 tensors",
    ),
    "a tensor of another shape": (
        weights(lambda t: {**t, "embeddings.word_embeddings.weight": torch.zeros(3, 3)}),
        "lacks 1 tensors",
    ),
    "a pickle that holds more than tensors": (pickled, "a pickle that holds more than tensors"),
    "a list of files of which one is missing": (
        index(weight_map={"embeddings.x": "model-00002-of-00002.safetensors"}),
        "backbone.name: ",
    ),
    "a list of files that leads out of the folder": (
        index(weight_map={"embeddings.x": "../../../../etc/passwd"}),
        "backbone.name: ",
    ),
    "a list of files that is no JSON": (
        lambda folder: (
            (folder / WEIGHTS).unlink(),
            (folder / "model.safetensors.index.json").write_text("{"),
        )[0],
        "backbone.name: ",
    ),
    "a tokenizer that is no JSON": (file("tokenizer.json", "{"), "backbone.name: "),
    "a tokenizer of another kind": (file("tokenizer.json", "[1, 2]"), "backbone.name: "),
    "settings of a tokenizer that are no JSON": (
        file("tokenizer_config.json", "{"),
        "backbone.name: ",
    ),
}
"""By name: what spoils the folder, and a part of the line that is said."""
