"""Numbers and settings as people read them."""

from collections.abc import Mapping
from math import isnan
from typing import Any

from lamina.evaluation.leaderboard import Row
from lamina.evaluation.seeds import Estimate, Group

UNDEFINED = "-"


def number(value: float | None) -> str:
    """Three decimals: what an accuracy has, and more than a few hundred test samples tell."""
    return UNDEFINED if value is None or isnan(value) else f"{value:.3f}"


def count(value: float | None) -> str:
    """A whole number, its thousands apart."""
    return UNDEFINED if value is None else f"{value:,.0f}"


def seconds(value: float | None) -> str:
    """Seconds to a tenth."""
    return UNDEFINED if value is None else f"{value:.1f}"


def amount(value: float | None) -> str:
    """A large number with its prefix: 12.3 k, 4.5 G."""
    if value is None:
        return UNDEFINED
    for prefix in ("", " k", " M", " G", " T", " P"):
        if abs(value) < 999.5 or prefix == " P":
            break
        value /= 1000
    return f"{value:.3g}{prefix}"


def p_value(value: float | None) -> str:
    """Three decimals; what is smaller is only said to be so."""
    if value is None:
        return UNDEFINED
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def with_deviation(value: Estimate | None) -> str:
    """Mean and standard deviation: `0.812 ± 0.013`."""
    if value is None:
        return UNDEFINED
    spread = "" if value.deviation is None else f" ± {number(value.deviation)}"
    return f"{number(value.mean)}{spread}"


def interval(mean: float, margin: float | None) -> str:
    """`[0.780, 0.844]`."""
    if margin is None:
        return UNDEFINED
    return f"[{number(mean - margin)}, {number(mean + margin)}]"


def settings(values: Mapping[str, Any]) -> str:
    """`lr 0.002, size 100`: the last part of each key is enough for a person."""
    return ", ".join(f"{short(key)} {setting(value)}" for key, value in values.items())


def short(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2].replace("learning_rate", "lr")


def setting(value: Any) -> str:
    """A setting's value; floats to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def name_of(group: Group) -> str:
    """`er lora, replay_size 16, lr 0.002`."""
    title = group.strategy if group.adapter is None else f"{group.strategy} {group.adapter}"
    return ", ".join(word for word in (title, settings(group.settings)) if word)


def status(row: Row) -> str:
    """Nothing of a trial that learned every task; how far the others came."""
    if row["status"] == "finished":
        return ""
    if not row["tasks_done"]:
        return f"{row['status']} in its first task"
    return f"{row['status']} after {row['tasks_done']} of {row['num_tasks']} tasks"


def reason(error: str) -> str:
    """The last line of a traceback, which says what is wrong."""
    return (error.strip().splitlines() or [""])[-1]


def last_lines(error: str, most: int = 12) -> str:
    """The end of a traceback."""
    return "\n".join(error.strip().splitlines()[-most:])
