"""How bundles are served: where, by how many, and what a request may ask for."""

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from lamina.checks import check_fields
from lamina.registry import InputError

TOKEN = "LAMINA_TOKEN"
"""The variable of the environment that may hold the token."""
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class ServingSettings:
    """What the options of `lamina serve` say."""

    host: str = "127.0.0.1"
    """The address that is listened at."""
    port: int = 8000
    """0: any that is free."""
    replicas: int = 1
    """Processes that answer, each with every backbone and adapter."""
    threads: int | None = None
    """CPU cores of each. Default: what this machine has, shared among the replicas, without one for
    HTTP; at most 4."""
    max_rows: int = 256
    """Inputs of a request."""
    max_characters: int = 20_000
    """Of a text."""
    max_new_tokens: int = 512
    """Of an answer in tokens, whatever a request or a bundle says."""
    max_pixels: int = 20_000_000
    """Of an image."""
    max_body_bytes: int = 8 * 2**20
    """Of a request; an image in it takes a third more than its file."""
    max_waiting_rows: int = 4096
    """Inputs that wait for a replica. A request that would make more is told to come again."""
    batch_rows: int = 64
    """Inputs that are sent to a replica together, and run in one forward."""
    seconds: float = 60.0
    """How long a request waits for its answer."""

    def __post_init__(self) -> None:
        limits = ("max_rows", "max_characters", "max_pixels", "max_body_bytes", "max_waiting_rows")
        counts = ("replicas", "threads", "batch_rows", "seconds", "max_new_tokens")
        check_fields("serve", self, positive=(*limits, *counts), not_negative=("port",))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def cores(self) -> int:
        """CPU cores of a replica."""
        share = ((os.cpu_count() or 1) - 1) // self.replicas
        return self.threads or max(1, min(share, 4))


def read_token(path: Path | None) -> str | None:
    """The token in a file, or in LAMINA_TOKEN, which is taken out of the environment, so that no
    process that is started inherits it; None where there is neither.

    Raises InputError where the file cannot be read, or the token is too short to be one.
    """
    given = os.environ.pop(TOKEN, None)
    where = TOKEN
    if path is not None:
        where = f"--token-file: {str(path)!r}"
        try:
            given = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise InputError(f"{where} cannot be read ({reason})") from error
    if given is None:
        return None
    if len(given) < _SHORTEST_TOKEN or not given.isascii() or not given.isprintable():
        raise InputError(
            f"{where}: holds no token (allowed: at least {_SHORTEST_TOKEN} letters, digits and "
            "signs of ASCII, on one line)"
        )
    return given


def check_access(settings: ServingSettings, token: str | None) -> None:
    """Raises InputError for an address that others can reach without a token."""
    if token is None and not settings.is_local:
        raise InputError(
            f"--host: {settings.host!r} can be reached from other machines, which needs a token "
            f"(allowed: 127.0.0.1, or --token-file FILE, or {TOKEN} in the environment)"
        )
