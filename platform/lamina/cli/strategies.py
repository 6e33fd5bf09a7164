"""`lamina strategies`: the methods, two lines each; each one's card in full, from its own file."""

import json
import textwrap
from itertools import groupby
from typing import Any

import click

from lamina.adapters import kind_names
from lamina.config.outline import NO_DEFAULT
from lamina.config.sections import FAMILIES
from lamina.registry import unknown

SHORT = {
    "class_incremental": "class",
    "task_incremental": "task",
    "domain_incremental": "domain",
    "task_free": "free",
}
"""Scenarios as the list names them; every strategy takes one task of all (`joint`)."""
_COLUMNS = 80
"""Of a terminal, as nobody has less."""


def card(name: str) -> dict[str, Any]:
    """What a strategy says of itself, as plain JSON. Raises InputError where there is none."""
    family = FAMILIES["strategy"]
    if name not in family.names():
        raise unknown("strategy", name, family.names())
    cls = family.outline(name)
    defaults = {
        key: None if each.default is NO_DEFAULT else each.default
        for key, each in cls.settings().items()
    }
    return {
        "name": name,
        "summary": " ".join(cls.card.partition("\n\n")[0].split()),
        "card": cls.card,
        "family": cls.family,
        "paper": cls.paper,
        "year": cls.year,
        "scenarios": list(cls.scenarios),
        "adapters": None if cls.adapters is None else list(cls.adapters),
        "modalities": list(cls.modalities),
        "answers": list(cls.answers),
        "classes_only": cls.classes_only,
        "needs_memory": cls.needs_memory,
        "routes": cls.routes,
        "grows": cls.grows,
        "trained_tasks": cls.trained_tasks,
        "data": cls.data,
        "settings": defaults,
    }


def show_strategies(name: str | None, as_json: bool) -> None:
    """Print every strategy on two lines, or one's card: for people, or as JSON."""
    cards = [card(each) for each in ([name] if name else FAMILIES["strategy"].names())]
    if as_json:
        click.echo(json.dumps(cards, indent=1))
    elif name:
        click.echo("\n".join(_in_full(cards[0])))
    else:
        _show_list(cards)


def _show_list(cards: list[dict[str, Any]]) -> None:
    width = max(len(each["name"]) for each in cards) + 1
    by_family = sorted(cards, key=lambda each: (each["family"], each["year"], each["name"]))
    for family, members in groupby(by_family, key=lambda each: each["family"]):
        click.echo(f"\n{family}")
        for each in members:
            method = each["summary"].partition("): ")[2]
            click.echo(f"  {each['name']:<{width}}{each['year']} {_fits(each)}")
            click.echo(f"      {textwrap.shorten(method, _COLUMNS - 6, placeholder=' ...')}")
    tokens = ", ".join(each["name"] for each in cards if "tokens" in each["answers"])
    click.echo(
        "\n" + textwrap.fill(f"Of language models, whose answers are tokens: {tokens}.", _COLUMNS)
    )
    click.echo(
        f"\n{len(cards)} strategies: scenarios | adapters | modalities, needs; what it does.\n"
        f"`lamina strategies {cards[0]['name']}` shows a card in full."
    )


def _fits(each: dict[str, Any]) -> str:
    """What goes with a strategy, in a few words."""
    scenarios = ",".join(SHORT[name] for name in each["scenarios"] if name in SHORT)
    if each["adapters"] is None:
        adapters = "any,none"
    elif set(each["adapters"]) == set(kind_names()):
        adapters = "any"
    else:
        adapters = ",".join(each["adapters"])
    modalities = ",".join(each["modalities"])
    needs = "+memory" if each["needs_memory"] else ""
    return f"{scenarios} | {adapters} | {modalities}{needs}"


def _in_full(each: dict[str, Any]) -> list[str]:
    kinds, why = each["adapters"], each["classes_only"]
    trains = {"all": "every task", "first": "the first task only", "none": "nothing"}
    needs = ["a memory"] if each["needs_memory"] else []
    needs += ["all tasks' data at once"] if each["data"] == "all" else []
    rows = {
        "family": each["family"],
        "paper": f"{each['paper']} ({each['year']})",
        "scenarios": ", ".join(each["scenarios"]),
        "adapters": "any kind, or none" if kinds is None else ", ".join(kinds),
        "modalities": ", ".join(each["modalities"]),
        "answers": ", ".join(each["answers"]) + (f": {why}" if why else ""),
        "trains": trains[each["trained_tasks"]],
        "grows": "later tasks train new tensors" if each["grows"] else "",
        "needs": " and ".join(needs) or "nothing else",
        "settings": ", ".join(f"{k}={json.dumps(v)}" for k, v in each["settings"].items()),
    }
    lines = [f"{key + ':':<12}{value}" for key, value in rows.items() if value]
    return [each["card"], "", *lines, f"{'in a job:':<12}strategy: {{name: {each['name']}}}"]
