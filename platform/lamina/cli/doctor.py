"""`lamina doctor`: what this machine has, and which settings of a job follow from it."""

import json
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import click
import torch

from lamina.backbones.cpu import features

Facts = dict[str, Any]
"""By what they are called."""

_FEATURES = ("avx", "avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "asimd", "bf16")
"""Of a CPU, those that matrix products use, as /proc/cpuinfo calls them."""
_ROWS, _WIDTH, _HIDDEN = 512, 384, 1536
"""Of the matrix product that is timed: 16 texts of 32 tokens in MiniLM's largest layer."""
_SECONDS = 0.2
"""How long each kind of number is timed."""
_CLEARLY = 1.2
"""How many times as fast another kind of number has to be before it is proposed."""
_TIMEOUT = 3.0
"""Seconds that the hub has to answer."""
_DASHBOARD = 8265
"""The port at which a Ray cluster takes jobs."""


def show_doctor(as_json: bool) -> None:
    """Print what this machine has: a line each, or as JSON."""
    sections: dict[str, Callable[[], Facts]] = {
        "machine": _machine,
        "torch": _torch,
        "cache": _cache,
        "hub": _hub,
        "ray": _ray,
        "packages": _packages,
    }
    found = {name: look() for name, look in sections.items()}
    advice = list(_advice(found))
    if as_json:
        click.echo(json.dumps({**found, "advice": advice}, indent=1))
        return
    for name, facts in found.items():
        click.echo(name)
        for key, value in facts.items():
            click.echo(f"  {key:<22} {_in_words(value)}")
    for line in advice or ["all is well"]:
        click.echo(f"-> {line}")


def _machine() -> Facts:
    from psutil import virtual_memory

    memory = virtual_memory()
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "cores_for_this_process": _own_cores(),
        "cpu_features": _cpu_features(),
        "memory_gb": round(memory.total / 1e9, 1),
        "memory_free_gb": round(memory.available / 1e9, 1),
    }


def _own_cores() -> int | None:
    """Cores that this process may run on, where the system says so."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()


def _cpu_features() -> list[str] | None:
    """Those of _FEATURES that the CPU has; None where nobody says."""
    known = features()
    return None if known is None else [each for each in _FEATURES if each in known]


def _torch() -> Facts:
    devices = [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())]
    device = "cuda" if devices else "cpu"
    return {
        "version": torch.__version__,
        "devices": [*devices, "cpu"],
        "threads": torch.get_num_threads(),
        "timed_on": device,
        "gflops_float32": round(_gflops(torch.float32, device)),
        "gflops_bfloat16": round(_gflops(torch.bfloat16, device)),
    }


@torch.no_grad()
def _gflops(dtype: torch.dtype, device: str) -> float:
    """How many billion operations a second a matrix product does in one kind of number."""
    tokens = torch.ones(_ROWS, _WIDTH, dtype=dtype, device=device)
    weight = torch.ones(_WIDTH, _HIDDEN, dtype=dtype, device=device)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    tokens @ weight
    wait()
    count, start = 0, time.perf_counter()
    while (seconds := time.perf_counter() - start) < _SECONDS:
        tokens @ weight
        wait()
        count += 1
    return 2e-9 * _ROWS * _WIDTH * _HIDDEN * count / seconds


def _cache() -> Facts:
    from huggingface_hub.constants import HF_HUB_CACHE

    from lamina.backbones.features import default_folder

    own, hub = default_folder().parent, Path(HF_HUB_CACHE)
    return {
        "lamina": str(own),
        "lamina_gb": _size(own),
        "hub": str(hub),
        "hub_gb": _size(hub),
    }


def _size(folder: Path) -> float:
    """Gigabytes of all files in a folder; what a link points to counts once."""
    files = (each for each in folder.rglob("*") if each.is_file() and not each.is_symlink())
    return round(sum(each.stat().st_size for each in files) / 1e9, 3)


def _hub() -> Facts:
    from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return {"address": ENDPOINT, "reachable": False, "why": "HF_HUB_OFFLINE is set"}
    try:
        with urlopen(Request(ENDPOINT, method="HEAD"), timeout=_TIMEOUT):
            return {"address": ENDPOINT, "reachable": True, "why": "it answers"}
    except OSError as error:
        return {"address": ENDPOINT, "reachable": False, "why": str(error)}


def _ray() -> Facts:
    address = os.environ.get("RAY_ADDRESS")
    return {
        "version": _version("ray"),
        "cluster": address or "none named by RAY_ADDRESS: a sweep starts its own on this machine",
        "tokens": os.environ.get(
            "RAY_AUTH_MODE", "as Ray decides: since 2.59 a cluster asks for one"
        ),
        f"port_{_DASHBOARD}": "answers: a cluster takes jobs here" if _answers() else "is free",
    }


def _answers() -> bool:
    with socket.socket() as connection:
        connection.settimeout(_TIMEOUT)
        return connection.connect_ex(("127.0.0.1", _DASHBOARD)) == 0


def _packages() -> Facts:
    """The version of each package that Lamina names, by what it is for; None where it is not
    installed."""
    found: Facts = {"lamina": _version("lamina")}
    for extra, names in _required().items():
        found[extra] = {name: _version(name) for name in names}
    return found


def _required() -> dict[str, list[str]]:
    """The packages that Lamina names, by its extras; `always` are those it cannot do without."""
    try:
        wanted = requires("lamina") or []
    except PackageNotFoundError:
        # Brought along by `ray job submit` it is not installed, and names none.
        wanted = []
    found: dict[str, list[str]] = {}
    for each in wanted:
        name = re.match(r"[\w.-]+", each)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", each)
        assert name is not None
        found.setdefault(extra[1] if extra else "always", []).append(name[0])
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _advice(found: dict[str, Facts]) -> Iterator[str]:
    """What a person may want to do about it."""
    timed = found["torch"]
    ratio = timed["gflops_bfloat16"] / max(timed["gflops_float32"], 1)
    if ratio > _CLEARLY:
        yield (
            f"backbone.dtype: bfloat16 is {ratio:.1f} times as fast as float32 on "
            f"{timed['timed_on']} (results differ in the third digit)"
        )
    elif ratio < 1 / _CLEARLY:
        yield (
            f"backbone.dtype: bfloat16 is {1 / max(ratio, 1e-3):.1f} times as slow as float32, the "
            f"default, on {timed['timed_on']}"
        )
    else:
        yield f"backbone.dtype: float32, the default, is as fast as any on {timed['timed_on']}"
    missing = {
        extra: [name for name, installed in names.items() if installed is None]
        for extra, names in found["packages"].items()
        if isinstance(names, dict)
    }
    for extra in ("always", "demo"):
        if missing.get(extra):
            name = "lamina" if extra == "always" else f"lamina[{extra}]"
            yield f"pip install '{name}' brings {', '.join(missing[extra])}"
    if not found["hub"]["reachable"]:
        yield (
            f"the hub is out of reach ({found['hub']['why']}): backbones are minilm, glyph_vit, "
            "folders, and what is in its cache"
        )


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each or '(not installed)'}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unknown" if value is None else str(value)
