"""Short, readable names of trials."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

from lamina.config.job import Job
from lamina.config.overrides import NAMED_BY

NAMING = {f"{section}.{by}" for section, by in NAMED_BY.items()}
"""The keys that decide which other keys their section has."""
TITLE = {"strategy.name", "adapter.kind"}
"""The keys that every trial's name begins with."""


def title_of(job: Job) -> str:
    """Strategy and adapter kind."""
    return job.strategy_name if job.adapter is None else f"{job.strategy_name}-{job.adapter.name}"


def words_of(values: Mapping[str, Any], among: Collection[str]) -> list[str]:
    """Values as parts of a name: `lr0.002`, `size100`; a section is named where its key is not
    enough to tell it from the other keys that are `among` them."""
    lasts = Counter(key.rpartition(".")[2] for key in among)
    words = []
    for key, value in values.items():
        last = key.rpartition(".")[2]
        label = key.replace(".", "_") if lasts[last] > 1 else last
        label = "lr" if label == "learning_rate" else label
        if value is None:
            word = f"no_{label}"
        elif key in NAMING or key in ("scenario.kind", "backbone.name"):
            word = str(value)
        else:
            word = f"{label}{value:.4g}" if isinstance(value, float) else f"{label}{value}"
        words.append(re.sub(r"[^A-Za-z0-9_.+-]+", "_", word).strip("_"))
    return words
