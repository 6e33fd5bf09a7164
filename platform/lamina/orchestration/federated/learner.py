"""A federation as one trial of a sweep: a host that does the work of all clients, and a report for
each step of the stream (`federation.rounds` rounds), so that schedulers may stop it between."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from lamina.backbones.backbone import Backbone
from lamina.bundles.bundle import ADAPTERS
from lamina.bundles.federated import write_global_bundle
from lamina.config import Job
from lamina.config.clients import manifest_of, settings_of_run
from lamina.config.identity import check_learned_from
from lamina.core import Batch, Stream
from lamina.evaluation.accuracy_matrix import Row
from lamina.federation.server.outcome import summaries_of
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.server.scores import EVALUATED
from lamina.federation.server.server_state import ServerState
from lamina.federation.state import GlobalState
from lamina.files import replacing
from lamina.folders import BUNDLE
from lamina.orchestration.federated.pool import LocalPool
from lamina.orchestration.federated.run import advance
from lamina.orchestration.federated.worker import LearningWorker
from lamina.training.report import TaskReport


class FederatedLearner:
    """Stands where a `Learner` does: it learns, goes on from a state, and leaves its tensors."""

    def __init__(self, job: Job, stream: Stream[Batch], backbone: Backbone) -> None:
        manifest = manifest_of(job, stream)
        check_learned_from(job, {"clients": manifest.hash[:10]})
        self._run = FederatedRun(settings_of_run(job, stream, manifest))
        self._job = job
        self._worker = LearningWorker(job, backbone, stream, manifest)
        self._pool = LocalPool(self._worker)
        self._clients = Kept()
        self._seconds = 0.0

    def learn(self) -> Iterator[TaskReport]:
        """The steps of the stream that are left, one for each report."""
        entries = self._run.settings.timetable
        num_steps = sum(each.kind == "evaluate" for each in entries)
        begin = perf_counter()
        for work, _ in advance(self._run, self._pool, self._clients):
            if work.entry.kind == "evaluate":
                self._seconds += perf_counter() - begin
                yield self._report(num_steps)
                begin = perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """The run's state, and what clients keep."""
        kept = {
            digest: torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())
            for digest, content in self._clients.contents.items()
        }
        return {"run": self._run.server.state_dict(), "clients": kept, "seconds": self._seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._run.load_state_dict(state["run"])
        self._clients.contents = {
            digest: each.numpy().tobytes() for digest, each in state["clients"].items()
        }
        self._seconds = state["seconds"]

    def save(self, within: Path, *, name: str, trial: str) -> Path:
        """Write the global model into a folder of `within`, and return that folder. It is the
        model's bundle, or its tensors where no bundle can be made."""
        setup, bundle = self._worker.setup, within / BUNDLE
        has_none = write_global_bundle(
            self._job, setup.stream, setup.backbone, self._run, bundle, name=name, trial=trial
        )
        if not has_none:
            return bundle
        folder = within / ADAPTERS
        folder.mkdir()
        save_global(self._run.server.global_state, folder / "global.safetensors")
        return folder

    def _report(self, num_steps: int) -> TaskReport:
        server = self._run.server
        scores = server.scores[-1]
        rows: dict[str, Row] = {}
        for part in EVALUATED:
            right, asked = scores.right[part][-1], scores.asked[part][-1]
            row: Row = [
                float(r) / float(n) if n > 0 else None for r, n in zip(right, asked, strict=True)
            ]
            # A stream may have more steps than tasks, or fewer, where clients have own paces.
            rows[part] = (row + [None] * num_steps)[:num_steps]
        done = len(server.scores)
        state, metrics = server.global_state, summaries_of(self._run)
        trained = sum(each.numel() for each in state.tensors.values())
        metrics["cost/trainable_parameters"] = float(trained)
        metrics["cost/train_seconds"] = self._seconds
        return TaskReport(
            task=done - 1,
            task_name=f"step {done}",
            num_tasks=num_steps,
            validation=rows["validation"],
            test=rows["test"],
            metrics=metrics,
            done=self._run.done,
        )


class Kept:
    """The clients' states, in the memory of one host."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self._stale: set[str] = set()

    def put(self, content: bytes) -> str:
        """Keep `content`; returns its digest."""
        digest = sha256(content).hexdigest()
        self.contents[digest] = content
        return digest

    def get(self, digest: str) -> bytes:
        """The content that `digest` names."""
        return self.contents[digest]

    def replaced(self, digest: str | None) -> None:
        """Mark a client's state that is not needed once the next state is kept."""
        if digest is not None:
            self._stale.add(digest)

    def keep(self, server: ServerState) -> None:
        """Forget what no client names any more."""
        for digest in self._stale - set(server.client_states.values()):
            self.contents.pop(digest, None)
        self._stale = set()


def save_global(state: GlobalState, path: Path) -> None:
    """The tensors of a global state, and its ledger under `ledger:`."""
    ledger = {f"ledger:{name}": tensor for name, tensor in state.ledger.items()}
    tensors = {**state.tensors, **ledger}
    with replacing(path) as unfinished:
        save_file({name: each.contiguous() for name, each in tensors.items()}, unfinished)
