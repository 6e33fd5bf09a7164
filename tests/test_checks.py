"""Bounds and words of settings."""

from dataclasses import dataclass
from typing import Literal

import pytest

from lamina.checks import check_fields
from lamina.registry import InputError


@dataclass
class Settings:
    """Fields of every kind."""

    weight: float = 0.5
    number: int | None = None
    how: Literal["loss", "paper"] = "loss"
    when: Literal["now", "later"] | None = None

    def __post_init__(self):
        check_fields("section", self)


@pytest.mark.parametrize(
    ("bound", "allowed", "refused", "said"),
    [
        ("not_negative", [0, 0.0, 3.5], [-1, -1e-9], "is negative"),
        ("positive", [1, 1e-9], [0, -2], "is not positive"),
        ("share", [0, 0.5, 1], [-0.1, 1.1], r"is not in \[0, 1\]"),
        ("share_below_1", [0, 0.99], [1, -0.1], r"is not in \[0, 1\)"),
        ("share_above_0", [0.01, 1], [0, 1.01], r"is not in \(0, 1\]"),
        ("even", [2, 10], [0, 1, 3], "is not an even number"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_key(bound, allowed, refused, said):
    for value in allowed:
        check_fields("section", Settings(weight=value), **{bound: ["weight"]})
    for value in refused:
        with pytest.raises(InputError, match=rf"^section\.weight: {value} {said}"):
            check_fields("section", Settings(weight=value), **{bound: ["weight"]})


def test_a_default_is_not_looked_at_and_what_is_no_number_is_refused():
    check_fields("section", Settings(), positive=["number"])
    with pytest.raises(InputError, match=r"section\.weight: nan is not a number"):
        check_fields("section", Settings(weight=float("nan")), not_negative=["weight"])


def test_a_word_that_is_none_of_those_allowed_is_refused_with_the_nearest():
    assert Settings(how="paper", when="later").when == "later"
    with pytest.raises(InputError, match=r"section\.how: 'papr' is unknown; did you mean 'paper'"):
        Settings(how="papr")
    with pytest.raises(InputError, match=r"section\.when: 'nw' is unknown; did you mean 'now'"):
        Settings(when="nw")
