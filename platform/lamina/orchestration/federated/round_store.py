"""A federated run on disk: its state after each work, what clients keep, and its bounds."""

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from lamina.federation.server.server_state import ServerState, check_format
from lamina.files import UNFINISHED, write_file
from lamina.orchestration.payloads import Payloads
from lamina.registry import InputError
from lamina.training.checkpoint import pack, unpack

_KEPT = 2
"""How many states are kept: the last one, and the one before in case the last is damaged."""


class RoundStore:
    """`rounds/000123-DIGEST.safetensors` is the state after 123 works, `rounds/bounds.json` what
    was reached beside the federation once it is over, `clients/` what each client keeps and
    `shared_models/` the shared models, under the digests of their contents. A digest is a SHA-256.

    A state is written aside, brought to the disk and moved into place, and only then is what the
    last but one needed deleted: whenever the driver dies, there is a whole state and all that it
    names; and where a file of that is damaged, the state before.
    """

    def __init__(self, folder: Path, config: str) -> None:
        """`config` is the digest of what the results depend on: a folder of another is refused."""
        self._folder = folder
        self._rounds = folder / "rounds"
        self._rounds.mkdir(parents=True, exist_ok=True)
        self._bounds = self._rounds / "bounds.json"
        self._config = config
        self._clients = Payloads(folder / "clients")
        self._shared_models = Payloads(folder / "shared_models")
        self._shared_model: tuple[int, str | None] = (0, None)
        self._stale: set[str] = set()
        """Digests of clients' states that the next state does not name any more."""
        self._outdated: set[str] = set()
        """Digests that the last but one state named, and the last one does not."""
        self._last: Path | None = None
        self.damaged: list[str] = []
        """The damaged states that `latest` left out, a line for each."""
        for torn in self._rounds.glob(f"*{UNFINISHED}"):
            torn.unlink()

    def latest(self) -> dict[str, Any] | None:
        """The last state that was kept and is whole; None where none was kept.

        Raises InputError where the folder is of another job, its state of another format, or none
        is whole.
        """
        found = sorted(self._rounds.glob("*.safetensors"), reverse=True)
        for place, path in enumerate(found):
            try:
                content = _content(path)
            except InputError as error:
                self.damaged.append(str(error))
                continue
            # These are of the whole folder: no earlier state would do.
            self._check(content)
            try:
                state = self._taken_up(path, content["state"])
            except InputError as error:
                self.damaged.append(f"{error}; rounds/{path.name} needs it")
                continue
            self._tidy(state, found[place + 1 :])
            return state
        if found:
            raise InputError(
                f"output_dir: no state of the run in {str(self._folder)!r} is whole: "
                f"{'; '.join(self.damaged)}"
            )
        return None

    def put(self, content: bytes) -> str:
        """Keep what a client keeps; returns its digest."""
        return self._clients.put(content)

    def get(self, digest: str) -> bytes:
        """The state of a client. Raises InputError where it is missing or damaged."""
        return self._clients.get(digest)

    def keep(self, server: ServerState) -> None:
        """Make this state the last one; what only those before the last named is deleted."""
        state = server.state_dict()
        number, before = state["num_boundaries"], self._shared_model[1]
        is_new = number != self._shared_model[0] and state["shared_model"] is not None
        if is_new:
            self._shared_model = (number, self._shared_models.put(pack(state["shared_model"])))
        plain = {"config": self._config, "state": {**state, "shared_model": self._shared_model[1]}}
        content = pack(plain)
        digest = sha256(content).hexdigest()
        path = self._rounds / f"{state['num_done']:06d}-{digest}.safetensors"
        write_file(path, content)
        for older in self._rounds.glob("*.safetensors"):
            if older not in (path, self._last):
                older.unlink()
        self._last = path
        if is_new:
            named = (before, self._shared_model[1])
            self._shared_models.keep_only({each for each in named if each is not None})
        if self._stale or self._outdated:
            now = set(state["client_states"].values())
            self._clients.delete(self._outdated - now)
            self._stale, self._outdated = set(), self._stale - now

    def bounds(self) -> Any | None:
        """The bounds that `keep_bounds` was given; None where it was not called, or the file is
        damaged."""
        with suppress(FileNotFoundError, ValueError):
            return json.loads(self._bounds.read_text(encoding="utf-8"))
        return None

    def keep_bounds(self, plain: Any) -> None:
        """Keep what was trained beside the federation, as JSON: it is trained once."""
        write_file(self._bounds, json.dumps(plain))

    def replaced(self, digest: str | None) -> None:
        """Mark a client's state as not needed once the next global state is kept."""
        if digest is not None:
            self._stale.add(digest)

    def _check(self, kept: dict[str, Any]) -> None:
        """Raises InputError for a state of another format, or of another job."""
        check_format(kept["state"])
        if kept["config"] != self._config:
            raise InputError(
                f"output_dir: {str(self._folder)!r} holds the rounds of another job, or of "
                "other settings, data or weights (allowed: a folder of its own, or the same job to "
                "go on)"
            )

    def _taken_up(self, path: Path, state: dict[str, Any]) -> dict[str, Any]:
        """The state, with its shared model. Raises InputError where a file that it names is missing
        or damaged."""
        clients = set(state["client_states"].values())
        for each in clients:
            self._clients.get(each)
        digest = state["shared_model"]
        state["shared_model"] = None if digest is None else unpack(self._shared_models.get(digest))
        self._shared_model = (state["num_boundaries"], digest)
        self._last = path
        return state

    def _tidy(self, state: dict[str, Any], earlier: list[Path]) -> None:
        """Delete what clients kept and neither this state nor the one before it names."""
        named = set(state["client_states"].values())
        for path in earlier[:1]:
            with suppress(InputError):
                named |= set(_content(path)["state"]["client_states"].values())
        self._clients.keep_only(named)


def _content(path: Path) -> dict[str, Any]:
    """The content of a state's file. Raises InputError where it is not what was written."""
    content, name = path.read_bytes(), f"rounds/{path.name}"
    _, _, digest = path.stem.partition("-")
    # Up to format 3 a name had no digest: such a state is refused by its number.
    if digest and sha256(content).hexdigest() != digest:
        raise InputError(f"{name} is damaged: its content is not what its name is the SHA-256 of")
    try:
        found: dict[str, Any] = unpack(content)
    except InputError as error:
        raise InputError(f"{name} is damaged: {error}") from None
    return found
