"""A federated run on disk: its state after each work, what clients keep, and its bounds."""

import json
import os
from pathlib import Path
from typing import Any

from lamina.federation.server.server_state import ServerState, check_format
from lamina.orchestration.payloads import Payloads, sync
from lamina.registry import InputError
from lamina.training.checkpoint import pack, unpack


class RoundStore:
    """`rounds/000123.safetensors` is the state after 123 works, `rounds/bounds.json` what was
    reached beside the federation once it is over, `clients/` what each client keeps
    and `shared_models/` the shared model, under the digests of their contents.

    A state is written aside, brought to the disk and moved into place, and only then is what it
    replaces deleted: whenever the driver dies, there is one whole state, and all that it names.
    """

    def __init__(self, folder: Path, config: str) -> None:
        """`config` is the digest of what the results depend on: a folder of another is refused."""
        self._rounds = folder / "rounds"
        self._rounds.mkdir(parents=True, exist_ok=True)
        self._bounds = self._rounds / "bounds.json"
        self._config = config
        self._clients = Payloads(folder / "clients")
        self._shared_models = Payloads(folder / "shared_models")
        self._shared_model: tuple[int, str | None] = (0, None)
        self._stale: set[str] = set()
        for torn in self._rounds.glob("*.tmp"):
            torn.unlink()

    def latest(self) -> dict[str, Any] | None:
        """The last state that was kept; None where there is none.

        Raises InputError where the folder is of another job, or its state of another format.
        """
        found = sorted(self._rounds.glob("*.safetensors"))
        if not found:
            return None
        kept: dict[str, Any] = unpack(found[-1].read_bytes())
        check_format(kept["state"])
        if kept["config"] != self._config:
            raise InputError(
                f"output_dir: {str(self._rounds.parent)!r} holds the rounds of another job, or of "
                "other settings, data or weights (allowed: a folder of its own, or the same job to "
                "go on)"
            )
        state: dict[str, Any] = kept["state"]
        digest = state["shared_model"]
        state["shared_model"] = None if digest is None else unpack(self._shared_models.get(digest))
        self._shared_model = (state["num_boundaries"], digest)
        self._clients.keep_only(set(state["client_states"].values()))
        return state

    def put(self, content: bytes) -> str:
        """Keep what a client keeps; returns its digest."""
        return self._clients.put(content)

    def get(self, digest: str) -> bytes:
        """What a client keeps."""
        return self._clients.get(digest)

    def keep(self, server: ServerState) -> None:
        """Make this state the last one; what only earlier ones name is deleted."""
        state = server.state_dict()
        number = state["num_boundaries"]
        is_new = number != self._shared_model[0] and state["shared_model"] is not None
        if is_new:
            self._shared_model = (number, self._shared_models.put(pack(state["shared_model"])))
        plain = {"config": self._config, "state": {**state, "shared_model": self._shared_model[1]}}
        path = self._rounds / f"{state['num_done']:06d}.safetensors"
        _write(path, pack(plain))
        for older in self._rounds.glob("*.safetensors"):
            if older != path:
                older.unlink()
        if is_new and self._shared_model[1] is not None:
            self._shared_models.keep_only({self._shared_model[1]})
        if self._stale:
            self._clients.delete(self._stale - set(state["client_states"].values()))
            self._stale = set()

    def bounds(self) -> Any | None:
        """What `keep_bounds` was given; None where it was not called."""
        return json.loads(self._bounds.read_text()) if self._bounds.exists() else None

    def keep_bounds(self, plain: Any) -> None:
        """Keep what was trained beside the federation, as JSON: it is trained once."""
        _write(self._bounds, json.dumps(plain).encode())

    def replaced(self, digest: str | None) -> None:
        """What a client kept until now is of no use once the next state is kept."""
        if digest is not None:
            self._stale.add(digest)


def _write(path: Path, content: bytes) -> None:
    """A file that is there whole or not at all."""
    aside = path.with_suffix(".tmp")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync(path.parent)
