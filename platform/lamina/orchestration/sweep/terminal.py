"""A sweep seen from another terminal: its store while it runs, its ledger when it does not."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ray

from lamina.files import write_json
from lamina.orchestration.cluster import check_address
from lamina.orchestration.store.actor import NAMESPACE, store_name
from lamina.orchestration.store.client import StoreClient
from lamina.orchestration.store.control import results
from lamina.orchestration.store.shared_store import SharedStore
from lamina.registry import InputError

ANSWER_SECONDS = 60.0
"""Who asks from another terminal waits so long for the store."""
_LEDGER = "ledger.sqlite"


@contextmanager
def announced(output_dir: Path, session: str) -> Iterator[None]:
    """For the time of a sweep, leaves behind where its store is."""
    path = _announcement(output_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A Ray that a sweep starts for itself asks for a token; one that it joined, as was said there.
    mode = os.environ.get("RAY_AUTH_MODE") or (None if "RAY_ADDRESS" in os.environ else "token")
    said = {
        "session": session,
        "address": ray.get_runtime_context().gcs_address,
        "auth_mode": mode,
    }
    write_json(path, said)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def store_of(output_dir: Path) -> Iterator[StoreClient | None]:
    """The store of the sweep that runs in `output_dir`; None if none does.

    A Ray that this process is connected to is used; otherwise it connects to the sweep's, for which
    it must be on a machine of that cluster. Raises InputError where that is refused.
    """
    try:
        said = json.loads(_announcement(output_dir).read_text(encoding="utf-8"))
        check_address(said["address"])
    except (OSError, ValueError):
        # It has ended, or was killed together with its Ray.
        yield None
        return
    connects = not ray.is_initialized()
    try:
        if connects:
            _connect(said)
        client = None
        with suppress(ValueError):
            actor = ray.get_actor(store_name(said["session"]), namespace=NAMESPACE)
            client = StoreClient(actor, deadline=ANSWER_SECONDS)
        yield client
    finally:
        if connects:
            ray.shutdown()


def read_ledger(output_dir: Path) -> list[dict[str, Any]] | None:
    """What a sweep that does not run any more left in its ledger (see `control.results`); None if
    there is none. Nothing in the folder is touched: a copy is read."""
    folder = output_dir / "store"
    if not (folder / _LEDGER).is_file():
        return None
    with TemporaryDirectory(prefix="lamina-ledger-") as name:
        copy = Path(name)
        for path in folder.glob(f"{_LEDGER}*"):
            shutil.copy(path, copy)
        store = SharedStore(copy, None, output_dir=output_dir)
        try:
            return results(store)
        finally:
            store.close()


def _announcement(output_dir: Path) -> Path:
    return output_dir / "store" / "live.json"


def _connect(said: dict[str, str | None]) -> None:
    if said["auth_mode"] is not None:
        os.environ.setdefault("RAY_AUTH_MODE", said["auth_mode"])
    try:
        ray.init(address=said["address"], log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"RUN: cannot join its Ray cluster at {said['address']!r}: {reason} "
            "(allowed: on a machine of the cluster, with its token; see clusters/README.md)"
        ) from error
