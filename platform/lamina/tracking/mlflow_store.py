"""Where a job's MLflow store is, whether somebody answers there, and the command that shows it."""

import json
import os
import shlex
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

from lamina.registry import InputError
from lamina.tracking.mlflow_views import leaderboard_link

_SERVERS = ("http", "https")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


def embedded_uri(output_dir: Path) -> str:
    """The store that needs no server: an SQLite file in the job's output folder."""
    return f"sqlite:///{_quoted(output_dir / 'mlflow.db')}"


def tidy_after_opening(output_dir: Path) -> None:
    """Remove the empty folders that MLflow makes when it opens an embedded store whose path is
    quoted: it makes the folder of the file, and reads the path as if it were not quoted."""
    stray = Path(_quoted(output_dir))
    if stray != output_dir:
        with suppress(OSError):
            os.removedirs(stray)


def _quoted(path: Path) -> str:
    """`path` in the URL of a database, where `%` begins a code and `?` ends the path. All else is
    as it is, so that people can read it."""
    return str(path).replace("%", "%25").replace("?", "%3F")


def check_uri(uri: str) -> None:
    """Raise InputError if MLflow cannot write to `uri`, or no server answers there within 5 s."""
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in _SERVERS + _DATABASES:
        raise InputError(
            f"tracking.mlflow_uri: {uri!r} is neither an MLflow server nor a database (allowed: "
            "http(s)://HOST:PORT, sqlite:///FILE, postgresql://..., or null for output_dir)"
        )
    if scheme in _SERVERS:
        try:
            urlopen(f"{uri.rstrip('/')}/health", timeout=5).close()
        except HTTPError as answer:
            answer.close()  # A server that wants to know who we are is a server that is there.
        except OSError as error:
            raise InputError(
                f"tracking.mlflow_uri: nobody answers at {uri!r} ({error}); mlflow/README.md says "
                "how to start a server, null keeps the runs in output_dir"
            ) from error


def ui_command(store: Path | str, page: str | None = None) -> str:
    """The shell command that shows the runs of `store`, a job's `output_dir` or `mlflow_uri`; on a
    server it opens a page, by default the list of experiments."""
    if _is_server(store):
        opened = shlex.quote(page or ui_page(store))
        return f"{_program(sys.executable)} -m webbrowser {opened}"
    uri = str(store) if "://" in str(store) else embedded_uri(_near(Path(store)))
    mlflow = Path(sys.executable).with_name("mlflow")
    return f"{_program(mlflow)} ui --workers 1 --backend-store-uri {shlex.quote(uri)}"


def ui_page(store: Path | str, experiment: str | None = None) -> str:
    """The page to open then: the trials ranked. On a server that does not tell the number of the
    experiment of this name, the list of all."""
    if _is_server(store):
        server = str(store).rstrip("/")
        number = None if experiment is None else _number_of(experiment, server)
        page = "#/experiments?workflowType=machine_learning"
        return f"{server}/{page if number is None else leaderboard_link(number)}"
    # 0 is MLflow's own experiment "Default"; an embedded store has one more.
    return f"http://127.0.0.1:5000/{leaderboard_link('1')}"


def _number_of(experiment: str, server: str) -> str | None:
    """MLflow's number of an experiment; None where nobody answers within 5 s, the server wants to
    know who asks, or it has none of this name."""
    asked = urlencode({"experiment_name": experiment})
    address = f"{server}/api/2.0/mlflow/experiments/get-by-name?{asked}"
    try:
        with urlopen(address, timeout=5) as answer:
            return str(json.load(answer)["experiment"]["experiment_id"])
    except (OSError, ValueError, KeyError):
        return None


def _is_server(store: Path | str) -> bool:
    return str(store).partition(":")[0] in _SERVERS


def _program(path: Path | str) -> str:
    """What to type for the program at `path`: its name if the shell finds it, else its place."""
    path = Path(path)
    found = shutil.which(path.name)
    return path.name if found and Path(found) == path else shlex.quote(str(_near(path)))


def _near(path: Path) -> Path:
    """`path` from here, if it is below; else from the root."""
    absolute, here = path.absolute(), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute
