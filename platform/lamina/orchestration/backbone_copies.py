"""Backbones that are folders of the driver's machine, on their way to hosts that lack them."""

import os
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError

from lamina.backbones.copies import content_of, is_folder, keep_copy


def put_copy(name: str) -> list[Any]:
    """A list of one reference to a backbone's folder in the object store; empty where no host can
    lack it, as all are on this machine, or as it is no folder."""
    if "RAY_ADDRESS" not in os.environ or not is_folder(name):
        return []
    files = content_of(name)
    return [ray.put({path: np.frombuffer(each, np.uint8) for path, each in files.items()})]


def copy_key(name: str) -> str:
    """Under which a sweep's store has such a reference, among those of streams."""
    return f"backbone {name}"


def take_copy(name: str, references: list[Any]) -> None:
    """Have `name` on this machine too, where it is not there. Without a reference, or where the
    object is lost, nothing happens: whoever loads the backbone says that it is not there."""
    if references and not is_folder(name):
        try:
            keep_copy(name, ray.get(references[0]))
        except ObjectLostError:
            return
