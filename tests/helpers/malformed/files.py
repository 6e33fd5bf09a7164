"""Bytes and folders of Lamina's own that are damaged or were made to harm: checkpoints, adapters,
updates of clients, bundles."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from lamina.training.checkpoint import pack

Change = Callable[[bytes], bytes]
Spoil = Callable[[Path], None]


def with_header(header: object, rest: bytes = b"\0" * 64) -> bytes:
    """A safetensors file with this header."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + rest


BOMBS: dict[str, bytes] = {
    "empty": b"",
    "text": b"this is no tensor",
    "a header of 10 GB": struct.pack("<Q", 10 * 2**30) + b"{}",
    "a header of 2^64 bytes": b"\xff" * 8 + b"{}",
    "a header nested a million deep": with_header("[" * 10**6 + "]" * 10**6),
    "a header that is cut off": struct.pack("<Q", 100) + b'{"a',
    "a header of a list": with_header([]),
    "a tensor of 4 TB": with_header(
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    ),
    "a shape that overflows": with_header(
        {"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}}
    ),
    "a negative offset": with_header(
        {"a": {"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}}
    ),
    "tensors that overlap": with_header(
        {
            "a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
            "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        }
    ),
    "an unknown type of number": with_header(
        {"a": {"dtype": "F33", "shape": [4], "data_offsets": [0, 16]}}
    ),
}
"""What no reader of safetensors may take, by name."""


def structure(text: str) -> bytes:
    """A checkpoint whose plain values are this JSON."""
    blob = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    return safetensors.torch.save({"structure": blob})


CHECKPOINTS: dict[str, bytes] = {
    **BOMBS,
    "no structure": safetensors.torch.save({"a": torch.ones(2)}),
    "a structure that is no JSON": structure("{no"),
    "a structure that is no UTF-8": safetensors.torch.save(
        {"structure": torch.tensor([255, 254], dtype=torch.uint8)}
    ),
    "a structure of floats": safetensors.torch.save({"structure": torch.ones(2)}),
    "a structure nested a hundred thousand deep": structure("[" * 100_000 + "]" * 100_000),
    "a tensor that is not there": structure('{"a": {"__tensor__": "b"}}'),
    "a tensor whose name is a list": structure('{"a": {"__tensor__": ["b"]}}'),
    "cut off": pack({"a": torch.ones(100), "b": [1, "x"]})[:-10],
}

UPDATES: dict[str, bytes] = {
    **BOMBS,
    "no values": safetensors.torch.save({"tensors/a": torch.ones(2)}),
    "values that are no JSON": safetensors.torch.save(
        {"tensors/a": torch.ones(2)}, {"update": "{"}
    ),
    "values that are a list": safetensors.torch.save(
        {"tensors/a": torch.ones(2)}, {"update": "[]"}
    ),
    "values nested a hundred thousand deep": safetensors.torch.save(
        {"tensors/a": torch.ones(2)}, {"update": "[" * 100_000 + "]" * 100_000}
    ),
    "other values": safetensors.torch.save(
        {"tensors/a": torch.ones(2)}, {"update": '{"metrics": {}, "__class__": "os.system"}'}
    ),
    "tensors of no group": safetensors.torch.save({"a": torch.ones(2)}, {"update": "{}"}),
}


def file(name: str, content: bytes | str | None) -> Spoil:
    """Another content, or none."""

    def spoil(folder: Path) -> None:
        path = folder / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


WEIGHTS = "adapter_model.safetensors"
ADAPTERS: dict[str, Spoil] = {
    **{name: file(WEIGHTS, content) for name, content in BOMBS.items()},
    "no weights": file(WEIGHTS, None),
    "no configuration": file("adapter_config.json", None),
    "a configuration that is cut off": file("adapter_config.json", '{"r": 2'),
    "a configuration of a list": file("adapter_config.json", "[]"),
    "a configuration of bytes": file("adapter_config.json", b"\xff\xfe"),
    "a configuration nested a hundred thousand deep": file(
        "adapter_config.json", "[" * 100_000 + "]" * 100_000
    ),
    "other tensors": file(WEIGHTS, safetensors.torch.save({"a": torch.ones(2)})),
}
"""What spoils the folder of an adapter, by name."""


def facts(change: Callable[[dict], dict]) -> Spoil:
    """Another bundle.json."""

    def spoil(folder: Path) -> None:
        path = folder / "bundle.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    return spoil


def flipped(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return spoil


def linked_out(folder: Path) -> None:
    """A file of the bundle that is somebody else's."""
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/passwd")


BUNDLES: dict[str, tuple[Spoil, str]] = {
    "no facts": (file("bundle.json", None), "BUNDLE: "),
    "empty facts": (file("bundle.json", ""), "BUNDLE: "),
    "facts that are cut off": (file("bundle.json", '{"format": 1'), "BUNDLE: "),
    "facts of a list": (file("bundle.json", "[]"), "BUNDLE: "),
    "facts of bytes": (file("bundle.json", b"\xff\xfe"), "BUNDLE: "),
    "facts nested a hundred thousand deep": (
        file("bundle.json", '{"format": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        "BUNDLE: ",
    ),
    "another format": (facts(lambda f: f | {"format": 99}), "format 99 is not known (allowed: 1)"),
    "no format": (facts(lambda f: {k: v for k, v in f.items() if k != "format"}), "format None"),
    "an unknown key": (facts(lambda f: f | {"code": "import os"}), "code is wrong"),
    "a missing key": (facts(lambda f: {k: v for k, v in f.items() if k != "tasks"}), "tasks is"),
    "classes of numbers": (facts(lambda f: f | {"class_names": [1, 2]}), "class_names.0 is wrong"),
    "a class twice": (
        facts(lambda f: f | {"class_names": [f["class_names"][0]] * len(f["class_names"])}),
        "BUNDLE: ",
    ),
    "an unknown scenario": (facts(lambda f: f | {"scenario": "x"}), "scenario is wrong"),
    "a task of a class that is none": (
        facts(lambda f: f | {"tasks": [f["tasks"][0] | {"classes": [999]}]}),
        "BUNDLE: ",
    ),
    "a file outside of the folder": (
        facts(lambda f: f | {"files": {**f["files"], "../../x": "0" * 64}}),
        "'../../x' is outside (allowed: paths in the folder)",
    ),
    "a file from the root": (
        facts(lambda f: f | {"files": {**f["files"], "/etc/passwd": "0" * 64}}),
        "'/etc/passwd' is outside (allowed: paths in the folder)",
    ),
    "a file with a NUL": (
        facts(lambda f: f | {"files": {**f["files"], "a\0b": "0" * 64}}),
        "BUNDLE: ",
    ),
    "a damaged model": (flipped("model.safetensors"), "is damaged"),
    "a damaged job": (flipped("job.json"), "is damaged"),
    "a missing model": (file("model.safetensors", None), "cannot be read"),
    "a model that is a link out of the folder": (linked_out, "is damaged"),
}
"""What spoils a bundle, by name, and a part of the line that is said."""
