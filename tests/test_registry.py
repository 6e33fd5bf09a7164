import pytest

from lamina.registry import InputError, member_names, unknown
from lamina.strategies import strategy_class


def test_the_files_of_a_package_are_its_members():
    names = member_names("lamina.strategies")
    assert "er" in names
    assert "base" not in names


def test_an_unknown_name_is_told_with_key_nearest_match_and_what_is_allowed():
    with pytest.raises(InputError) as error:
        strategy_class("ewcc")
    message = str(error.value)
    assert message.startswith("strategy.name: 'ewcc' is unknown; did you mean 'ewc'? (allowed: ")
    assert "ranpac" in message
    assert "\n" not in message


def test_a_name_like_no_other_gets_no_hint():
    assert "did you mean" not in str(unknown("key", "zzzzzz", ["lora", "prefix"]))
