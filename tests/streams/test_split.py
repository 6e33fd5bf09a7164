"""Train, validation and test: shares, strata and templates."""

from collections import Counter
from random import Random

import pytest

from lamina.streams.split import Shares, assign_parts

SHARES = Shares(validation=0.2, test=0.25)


def test_every_cell_gets_its_own_shares():
    cells = {row: "big" if row < 800 else "small" for row in range(840)}
    parts = assign_parts(cells, None, None, SHARES, Random(0))
    big, small = (
        Counter(parts[row] for row in cells if cells[row] == cell) for cell in ("big", "small")
    )
    assert big == {"train": 480, "validation": 120, "test": 200}
    assert small == {"train": 24, "validation": 6, "test": 10}


def test_three_rows_are_enough_for_three_parts():
    parts = assign_parts(dict.fromkeys(range(3), "only"), None, None, SHARES, Random(0))
    assert sorted(parts.values()) == ["test", "train", "validation"]


@pytest.mark.parametrize("seed", range(20))
def test_no_template_is_divided_and_no_cell_goes_without_a_part(seed):
    random = Random(seed)
    cells, templates = {}, []
    for cell in range(10):
        for template in range(random.randint(3, 9)):
            for _ in range(random.randint(1, 12)):
                cells[len(templates)] = cell
                templates.append(f"{cell}/{template}")
    parts = assign_parts(cells, templates, None, SHARES, Random(seed))
    assert len({(templates[row], part) for row, part in parts.items()}) == len(set(templates))
    assert len({(cells[row], part) for row, part in parts.items()}) == 10 * 3


def test_a_template_of_two_cells_goes_to_one_part_and_the_scarce_cell_chooses():
    cells = dict.fromkeys(range(9), "plenty") | dict.fromkeys(range(9, 12), "scarce")
    templates = ["x", "y", "z", *"abcdef", "x", "y", "z"]
    parts = assign_parts(cells, templates, None, SHARES, Random(0))
    assert {parts[row] for row in (9, 10, 11)} == {"train", "validation", "test"}
    assert [parts[row] for row in range(3)] == [parts[row] for row in range(9, 12)]


def test_official_parts_stay_and_only_the_missing_one_is_carved_out_of_training():
    official = ["train"] * 40 + ["test"] * 10
    parts = assign_parts(dict.fromkeys(range(50), "x"), None, official, SHARES, Random(0))
    assert [row for row, part in parts.items() if part == "test"] == list(range(40, 50))
    assert Counter(parts.values()) == {"train": 32, "validation": 8, "test": 10}


def test_the_split_is_the_draw_of_its_seed():
    cells = dict.fromkeys(range(100), "x")
    first, again, other = (
        assign_parts(cells, None, None, SHARES, Random(seed)) for seed in (0, 0, 1)
    )
    assert first == again != other
