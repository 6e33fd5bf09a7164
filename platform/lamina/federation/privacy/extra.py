"""The packages of the extra `privacy`, imported when something that needs them runs."""

from importlib import import_module
from typing import Any

from lamina.registry import InputError


def privacy_module(module: str) -> Any:
    """A module of a package of the extra `privacy`.

    Raises InputError with the command that installs it.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f"federation.privacy: needs {error.name or module}, which is not installed "
            '(pip install "lamina[privacy]")'
        ) from error
