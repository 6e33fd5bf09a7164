"""A sweep's folder, as it is read."""

import pytest

from finished_sweep import finished_sweep
from lamina.reporting.results import read_boards


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Of a made-up sweep. Nobody changes it."""
    return finished_sweep(tmp_path_factory.mktemp("report") / "out")


@pytest.fixture(scope="session")
def board(folder):
    """What is in it."""
    (found,) = read_boards(folder)
    return found
