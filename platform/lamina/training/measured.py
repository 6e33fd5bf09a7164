"""Measurements of this machine, kept on disk: what was measured once is not measured again."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from lamina.backbones.features import default_folder
from lamina.digests import digest_of
from lamina.files import write_json


def measured(key: Mapping[str, Any], measure: Callable[[], Any], device: torch.device) -> Any:
    """What `measure` returned for `key` on this machine before, or what it returns now.

    `key` and the result are plain JSON. Processes that ask for the same at once wait for the first
    of them, so the hosts of a machine agree. The file is in `$LAMINA_CACHE/measured`, or in the
    user's cache; whoever deletes it has it measured again.
    """
    whole = {"machine": machine(device), **key}
    folder = default_folder().parent / "measured"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest_of(whole)}.json"
    with FileLock(path.with_suffix(".lock")):
        # What is damaged is measured again.
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            return json.loads(path.read_text(encoding="utf-8"))["result"]
        result = measure()
        write_json(path, {"key": whole, "result": result})
    return result


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds from any beginning, for measuring work on a device: of this thread's own processor
    time where a CPU does the work, so that other processes do not count; where a GPU does, of the
    wall clock once it has done what it was given."""
    if device.type != "cuda":
        return time.thread_time

    def read() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return read


def machine(device: torch.device) -> dict[str, Any]:
    """What a speed depends on, besides the work: processor or GPU, cores, threads, torch."""
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """The name of the processor and its vector instructions."""
    capability = torch.backends.cpu.get_cpu_capability()
    info = Path("/proc/cpuinfo")
    names = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in names if line.startswith("model name")]
    return f"{named[0] if named else platform.processor()} {capability}"
