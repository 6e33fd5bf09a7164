"""Proof by sample that a sweep gave each trial what it gets alone: some are trained again by
themselves, with nothing packed, kept or shared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import ray
from safetensors.torch import load_file

from lamina.config import HostSettings
from lamina.core import seed_of
from lamina.folders import TRIALS
from lamina.orchestration.cluster import Device

if TYPE_CHECKING:
    from torch import Tensor

_LEARNED = {"model.safetensors", "global.safetensors"}
"""The files of what a trial leaves that hold what it trained: of a bundle, or of a federation."""
TOLERANCE = 1e-5
"""The largest difference of a float32 parameter that the order of sums explains."""


@dataclass(frozen=True)
class Verdict:
    """A trial of the sweep and the same trial alone."""

    trial: str
    name: str
    same_matrices: bool
    """Whether R is the same, of both parts."""
    difference: float
    """The largest of a learned number."""

    @property
    def holds(self) -> bool:
        """Whether the trial is what it is alone."""
        return self.same_matrices and self.difference <= TOLERANCE


def verify(
    rows: Sequence[Mapping[str, Any]],
    share: float,
    seed: int,
    output_dir: Path,
    hosts: HostSettings,
    devices: Sequence[Device],
) -> list[Verdict]:
    """Train a share of the finished trials again, at least one, each alone on a device of the
    cluster. Which ones is drawn from the seed. Trials that a person forked have no job of their own
    and are left out."""
    finished = [row for row in rows if row["status"] == "finished" and not row.get("fork")]
    number = min(ceil(share * len(finished)), len(finished))
    chosen = Random(seed_of(seed, "verify")).sample(finished, number)
    alone = replace(hosts, cohort=1, features_gb=0.0)
    device = devices[0]
    resources = {"num_cpus": device.threads, "num_gpus": int(device.is_gpu)}
    again = ray.remote(_train_alone).options(**resources)
    answers = [again.remote(row["mapping"], alone, device.is_gpu) for row in chosen]
    return [
        _verdict(row, matrices, left, output_dir)
        for row, (matrices, left) in zip(chosen, ray.get(answers), strict=True)
    ]


def _train_alone(
    mapping: Mapping[str, Any], hosts: HostSettings, is_gpu: bool
) -> tuple[list[Any], tuple[str, dict[str, bytes]]]:
    import torch

    from lamina.orchestration.hosts.claimed_trials import left_behind
    from lamina.orchestration.hosts.resident_backbones import ResidentBackbones

    torch.set_num_threads(hosts.threads)
    device = torch.device("cuda" if is_gpu else "cpu")
    learner = ResidentBackbones(device, hosts, lambda _, build: build()).learner(mapping)
    matrices = [(report.validation, report.test) for report in learner.learn()]
    return matrices, left_behind(learner, mapping, "", "")


def _verdict(
    row: Mapping[str, Any],
    matrices: list[Any],
    left: tuple[str, Mapping[str, bytes]],
    output_dir: Path,
) -> Verdict:
    from safetensors.torch import load

    name, files = left
    difference = 0.0
    for file in _LEARNED & files.keys():
        theirs = _trained(load_file(output_dir / TRIALS / row["trial"] / name / file))
        mine = _trained(load(files[file]))
        assert mine.keys() == theirs.keys()
        distances = [(mine[key] - theirs[key]).abs().max() for key in mine if mine[key].numel()]
        difference = max([difference, *map(float, distances)])
    same = [(report["validation"], report["test"]) for report in row["reports"]] == [
        tuple(pair) for pair in matrices
    ]
    return Verdict(row["trial"], row["name"], same, difference)


def _trained(tensors: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Without what a strategy remembers: sums over rows are as large as the rows are many."""
    return {
        key: each for key, each in tensors.items() if not key.startswith(("strategy/", "structure"))
    }
