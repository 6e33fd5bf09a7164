"""One MLflow store for all tests: to create a database takes seconds."""

from pathlib import Path

import pytest
from mlflow import MlflowClient

from lamina.tracking.mlflow_store import embedded_uri


@pytest.fixture(scope="session")
def output_dir(tmp_path_factory) -> Path:
    """The output folder whose embedded store the tests share."""
    return tmp_path_factory.mktemp("a job's output")


@pytest.fixture
def client(output_dir) -> MlflowClient:
    """A reader of the embedded store."""
    return MlflowClient(embedded_uri(output_dir))
