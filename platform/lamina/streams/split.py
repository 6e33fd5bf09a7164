"""Train, validation and test: which part each row goes to. Pure."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from lamina.core import Part

_CARVED: tuple[Part, ...] = ("test", "validation")
"""In the order of their shares: that of validation is of what the test part leaves."""


@dataclass(frozen=True)
class Shares:
    """How much is carved out where the source has no such part of its own."""

    validation: float
    """Of the rows that are left for training once the test part is taken."""
    test: float
    """Of all rows."""


def assign_parts(
    cells: Mapping[int, Hashable],
    templates: Sequence[str] | None,
    official: Sequence[Part] | None,
    shares: Shares,
    random: Random,
) -> dict[int, Part]:
    """The part of every row of `cells`, in the same order.

    A cell is what the split is stratified by: each gets its own share of every part. Official parts
    stay as they are; only those that the source lacks are carved out of its training rows. Rows of
    one template go to the same carved part, even from different cells: cells with the fewest
    templates choose first, take those that bring a part near its share, and leave at least one to
    each part that comes later. A cell with too few templates ends up without some part; it is the
    caller's to refuse it.
    """
    present = set() if official is None else {official[row] for row in cells}
    carved = [part for part in _CARVED if part not in present]
    pool = [row for row in cells if official is None or official[row] == "train"]

    sizes: dict[Hashable, Counter[Hashable]] = {}
    for row in pool:
        sizes.setdefault(cells[row], Counter())[_template(row, templates)] += 1
    chosen: dict[Hashable, Part] = {}
    for cell in sorted(sizes, key=lambda cell: len(sizes[cell])):
        _choose(sizes[cell], carved, shares, chosen, random)

    parts = {} if official is None else {row: official[row] for row in cells}
    parts |= {row: chosen[_template(row, templates)] for row in pool}
    return parts


def _template(row: int, templates: Sequence[str] | None) -> Hashable:
    return row if templates is None else templates[row]


def _choose(
    sizes: Mapping[Hashable, int],
    carved: Sequence[Part],
    shares: Shares,
    chosen: dict[Hashable, Part],
    random: Random,
) -> None:
    """Add to `chosen` the part of each template of one cell; `sizes` are its rows per template."""
    have: Counter[Part] = Counter()
    for template, size in sizes.items():
        if template in chosen:
            have[chosen[template]] += size
    free = [template for template in sizes if template not in chosen]
    random.shuffle(free)
    targets: dict[Part, float] = {}
    left = float(sum(sizes.values()))
    for part in carved:
        targets[part] = left * getattr(shares, part)
        left -= targets[part]
    # The smallest part chooses first: it can do with the fewest templates.
    order = sorted(carved, key=targets.__getitem__)
    for index, part in enumerate(order):
        later = (*order[index + 1 :], "train")
        spare = len(free) - sum(have[other] == 0 for other in later)
        taken = _near(targets[part], have[part], free, sizes, spare)
        chosen.update(dict.fromkeys(taken, part))
        free = [template for template in free if template not in chosen]
        have[part] += sum(sizes[template] for template in taken)
    chosen.update(dict.fromkeys(free, "train"))


def _near(
    target: float, have: int, free: Sequence[Hashable], sizes: Mapping[Hashable, int], most: int
) -> list[Hashable]:
    """At most `most` templates that bring `have` rows near `target`, and one where there were none.

    First those that fit, as they come; then the smallest other one, if it brings it nearer.
    """
    taken: list[Hashable] = []
    others: list[Hashable] = []
    for template in free:
        if len(taken) < most and have + sizes[template] <= target:
            taken.append(template)
            have += sizes[template]
        else:
            others.append(template)
    if others and len(taken) < most:
        smallest = min(others, key=sizes.__getitem__)
        if have == 0 or have + sizes[smallest] - target < target - have:
            taken.append(smallest)
    return taken
