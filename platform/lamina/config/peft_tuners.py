"""PEFT's tuners and the keys of their configurations, read from PEFT's files: importing it takes
seconds, and a misspelt name is told at once."""

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from lamina.config.outline import Outline, source_of
from lamina.registry import unknown

DEFAULT = "LOHA"
"""The tuner of an adapter that names none."""


def peft_types() -> list[str]:
    """PEFT's names of its tuners."""
    return list(source_of("peft.utils.peft_types")["PeftType"].constants().values())


def config_keys(peft_type: str) -> list[str] | None:
    """What the configuration of a tuner has and is about its tensors; None where PEFT keeps it
    somewhere else than expected."""
    try:
        source = source_of(f"peft.tuners.{peft_type.lower()}")
    except ModuleNotFoundError:
        return None
    aside = source_of("lamina.adapters.kinds.peft")["NOT_OF_AN_ADAPTER"]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "register_peft_method":
            named = {each.arg: ast.unparse(each.value) for each in node.keywords}
            config = source[named["config_cls"]]
            if isinstance(config, Outline):
                return [key for key in config.field_names() if key not in aside]
    return None


def misspelt(settings: Mapping[str, Any]) -> Iterator[str]:
    """A line for each name of PEFT's that the adapter `peft` is given and that is none."""
    peft_type, config = settings.get("peft_type", DEFAULT), settings.get("config")
    known = peft_types()
    if isinstance(peft_type, str) and peft_type not in known:
        yield str(unknown("adapter.peft_type", peft_type, known))
    elif isinstance(peft_type, str) and isinstance(config, Mapping):
        keys = config_keys(peft_type)
        for key in config:
            if keys is not None and key not in keys:
                yield str(unknown("adapter.config", key, keys))
