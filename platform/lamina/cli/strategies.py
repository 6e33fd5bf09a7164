"""`lamina strategies`: each method's card, from its own file."""

import json
import sys
from dataclasses import MISSING, fields
from typing import Any

import click

from lamina.strategies import strategy_class, strategy_names


def card(name: str) -> dict[str, Any]:
    """What a strategy says of itself, as plain JSON."""
    cls = strategy_class(name)
    sign = (sys.modules[cls.__module__].__doc__ or "").strip().partition("\n\n")[0]
    defaults = {
        each.name: None if each.default is MISSING else each.default
        for each in fields(cls)
        if each.init
    }
    return {
        "name": name,
        "summary": " ".join(sign.split()),
        "family": cls.family,
        "paper": cls.paper,
        "year": cls.year,
        "scenarios": list(cls.scenarios),
        "adapters": None if cls.adapters is None else list(cls.adapters),
        "modalities": list(cls.modalities),
        "needs_memory": cls.needs_memory,
        "trained_tasks": cls.trained_tasks,
        "data": cls.data,
        "settings": defaults,
    }


def show_strategies(as_json: bool) -> None:
    """Print all cards: for people, or as a JSON list."""
    cards = [card(name) for name in strategy_names()]
    if as_json:
        click.echo(json.dumps(cards, indent=1))
        return
    width = max(len(each["name"]) for each in cards) + 2
    for each in cards:
        click.echo(f"{each['name']:<{width}}{each['summary']}")
        for line in _lines(each):
            click.echo(f"{'':<{width}}{line}")
    click.echo(
        f"\n{len(cards)} strategies; `strategy: {{name: {cards[0]['name']}}}` in a job uses one."
    )


def _lines(each: dict[str, Any]) -> list[str]:
    kinds = each["adapters"]
    adapters = "any adapter kind, or none" if kinds is None else f"adapter: {' or '.join(kinds)}"
    trains = {"all": "every task", "first": "the first task only", "none": "nothing"}
    needs = ["a memory"] if each["needs_memory"] else []
    needs += ["all tasks' data at once"] if each["data"] == "all" else []
    settings = ", ".join(f"{key}={json.dumps(value)}" for key, value in each["settings"].items())
    lines = [
        f"{each['family']}; {each['paper']!r} ({each['year']})",
        f"{', '.join(each['scenarios'])}; {', '.join(each['modalities'])}; {adapters}",
        f"trains {trains[each['trained_tasks']]}; needs {' and '.join(needs) or 'nothing else'}",
    ]
    return [*lines, *([f"settings: {settings}"] if settings else [])]
