"""When each row comes: tasks that come back, and classes that blur into other tasks. Pure."""

from collections.abc import Mapping
from random import Random

from lamina.core import PARTS, Part, seed_of
from lamina.registry import InputError

Cell = tuple[int, str]
"""A task and a class."""


def recurring(
    cells: Mapping[int, Cell],
    parts: Mapping[int, Part],
    num_tasks: int,
    recurrences: int,
    seed: int,
) -> dict[int, int]:
    """The task of each row when the whole sequence of `num_tasks` tasks is gone through
    `recurrences` times, every time with rows of its own.

    The rows of a class of a task in a part are dealt out evenly. Raises InputError where there are
    too few.
    """
    together: dict[tuple[int, str, Part], list[int]] = {}
    for row, part in parts.items():
        together.setdefault((*cells[row], part), []).append(row)
    when = {}
    for (task, label, part), rows in together.items():
        if len(rows) < recurrences:
            raise InputError(
                f"scenario.recurrences: {recurrences} is more than class {label!r} has rows in "
                f"its {part} part (allowed: 1 to {len(rows)})"
            )
        Random(seed_of(seed, "stream", "recur", task, label, part)).shuffle(rows)
        when.update({row: index % recurrences * num_tasks + task for index, row in enumerate(rows)})
    return {row: when[row] for row in parts}


def blurred(
    when: Mapping[int, int],
    cells: Mapping[int, Cell],
    parts: Mapping[int, Part],
    share: float,
    disjoint: float,
    seed: int,
) -> dict[int, int]:
    """`when`, with training rows moved to other tasks (Si-Blurry, Moon et al., 2023).

    A share `disjoint` of the classes, drawn at random, stays in its tasks. Of the training rows of
    every other class, a share `share` goes to tasks drawn at random. What is evaluated stays.
    """
    num_tasks = max(when.values()) + 1
    classes = list(dict.fromkeys(label for _, label in cells.values()))
    random = Random(seed_of(seed, "stream", "blur"))
    staying = set(random.sample(classes, round(disjoint * len(classes))))
    moved = dict(when)
    for label in classes:
        if label in staying or num_tasks == 1:
            continue
        rows = [row for row in when if cells[row][1] == label and parts[row] == PARTS[0]]
        for row in random.sample(rows, int(share * len(rows))):
            others = [task for task in range(num_tasks) if task != when[row]]
            moved[row] = random.choice(others)
    return moved
