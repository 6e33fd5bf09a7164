"""Commands of Lamina for a cluster that is somewhere else: sent over HTTP, as `ray job submit`
sends them, to run on the head's machine.

Whoever sends needs the address of the cluster's dashboard and its token, and no disk in common with
it. The token is read by Ray (see clusters/README.md); it is in no file and no line of ours.
"""

import asyncio
import json
import logging
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray.dashboard.modules.job.sdk import JobSubmissionClient
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from lamina.orchestration.cluster import answers
from lamina.registry import InputError

_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
"""Loggers of Ray with a level of their own: what they say of an upload is for nobody who waits."""
_PORTS = {"http": 80, "https": 443}
_MOST_BREAKS = 5
"""How often the connection may break while a log is followed."""
_PAUSE_SECONDS = 1.0
_ENTRYPOINT = "Running entrypoint for job "
"""The last line of Ray's own in the log of a job begins so, after the time."""


@dataclass(frozen=True)
class Submission:
    """A command, and what goes with it: Lamina as it is here, and a folder of job files."""

    words: tuple[str, ...]
    """The words of the command line after `lamina`."""
    folder: Path | None = None
    """Where the files are that the words name, and nothing else; it is uploaded, and the command
    runs in the copy."""

    @property
    def entrypoint(self) -> str:
        """The command, quoted for a shell."""
        return shlex.join(["python", "-m", "lamina.cli", *self.words])

    @property
    def runtime_env(self) -> dict[str, Any]:
        """Ray's runtime environment. The Lamina that sends comes before any that is there."""
        folder = {} if self.folder is None else {"working_dir": str(self.folder)}
        package = str(Path(__file__).parents[1])
        return {**folder, "py_modules": [package], "excludes": ["__pycache__"]}

    def as_plain_command(self, address: str) -> str:
        """The `ray job submit` command that sends the same without Lamina."""
        environment = shlex.quote(json.dumps(self.runtime_env))
        ray = f"ray job submit --address {shlex.quote(address)} --runtime-env-json {environment}"
        return f"{ray} -- {self.entrypoint}"


class JobServer:
    """The part of a cluster that takes jobs over HTTP."""

    def __init__(self, address: str) -> None:
        """`address` is that of the dashboard, as `http://127.0.0.1:8265`.

        Raises InputError where no cluster answers there, or where it does not let us in.
        """
        self.address = checked(address)
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._client = JobSubmissionClient(self.address)
        except AuthenticationError:
            raise InputError(
                f"--address: the cluster at {address!r} asks for a token, and none or another one "
                "was found (allowed: RAY_AUTH_MODE=token, with the cluster's token in "
                "RAY_AUTH_TOKEN or in the file that RAY_AUTH_TOKEN_PATH names)"
            ) from None
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"--address: no Ray cluster takes jobs at {address!r}: {_first_line(error)} "
                "(allowed: the dashboard of a cluster, as http://127.0.0.1:8265)"
            ) from None

    def send(self, submission: Submission) -> str:
        """Returns the id of the job. Raises InputError where the cluster does not take it."""
        try:
            return str(
                self._client.submit_job(
                    entrypoint=submission.entrypoint, runtime_env=submission.runtime_env
                )
            )
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise InputError(
                f"--address: the cluster at {self.address!r} does not take the job: "
                f"{_first_line(error)}"
            ) from None

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Write what a job prints until it has ended. Returns the exit code of its command, 1 where
        there is none. Raises InputError where the cluster is gone for good."""
        log = _Log(write)
        for attempt in range(_MOST_BREAKS):
            try:
                asyncio.run(self._tail(job, log))
                while not (status := self._client.get_job_status(job)).is_terminal():
                    time.sleep(_PAUSE_SECONDS / 10)
                code = self._client.get_job_info(job).driver_exit_code
                if status is not JobStatus.SUCCEEDED and not code:
                    log.end(f"{job} {status.value.lower()}: {self._reason(job)}\n")
                    return 1
                return int(code or 0)
            except (ConnectionError, RuntimeError, OSError) as error:
                reason = _first_line(error)
                time.sleep(_PAUSE_SECONDS * (attempt + 1))
        raise InputError(
            f"--address: the cluster at {self.address!r} does not answer any more: {reason} "
            f"(to look again: ray job logs --address {self.address} --follow {job})"
        )

    async def _tail(self, job: str, log: "_Log") -> None:
        log.rewind()
        async for lines in self._client.tail_job_logs(job):
            log.add(lines)

    def _reason(self, job: str) -> str:
        message = self._client.get_job_info(job).message or "no reason given"
        return " ".join(message.split())


class _Log:
    """What a command prints, once: without Ray's own lines before it, and without what was written
    already when the log is read from its beginning again."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._num_written = 0
        self.rewind()

    def rewind(self) -> None:
        """The log is read from its beginning."""
        self._head: str | None = ""
        self._num_seen = 0

    def add(self, text: str) -> None:
        """The next piece."""
        if self._head is not None:
            self._head += text
            _, found, after = self._head.partition(_ENTRYPOINT)
            _, ends, rest = after.partition("\n")
            if not (found and ends):
                return
            self._head, text = None, rest
        begin = max(self._num_written - self._num_seen, 0)
        self._num_seen += len(text)
        if new := text[begin:]:
            self._num_written += len(new)
            self._write(new)

    def end(self, text: str) -> None:
        """What Ray says where no command was started; then `text`."""
        self._write((self._head or "") + text)


def checked(address: str) -> str:
    """An address with its scheme. Raises InputError where it is none of a dashboard, holds a
    password, or where nobody answers."""
    given = address if "://" in address else f"http://{address}"
    url = urlsplit(given)
    if url.scheme not in _PORTS or not url.hostname:
        raise InputError(
            f"--address: {address!r} is not the address of a cluster's dashboard (allowed: "
            "http://HOST:8265 or https://HOST)"
        )
    if url.username or url.password:
        raise InputError(
            "--address: it holds a name or a password, which would be in logs and in the shell's "
            "history (allowed: http://HOST:8265, with the token in RAY_AUTH_TOKEN or a file)"
        )
    try:
        port = url.port or _PORTS[url.scheme]
    except ValueError:
        raise InputError(f"--address: {address!r} has no port (allowed: 1 to 65535)") from None
    if error := answers(url.hostname, port):
        raise InputError(
            f"--address: no Ray cluster answers at {address!r}: {error} (allowed: the dashboard of "
            "a cluster that runs, or a tunnel to it; see clusters/README.md)"
        )
    return given.rstrip("/")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
