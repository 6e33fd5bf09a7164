"""Which names are blank, which look alike, and how they are shown."""

import pytest

from lamina.streams.names import alike, few_of, is_blank, looks, shown


@pytest.mark.parametrize(
    "text", [None, "", " ", "\t\n", "\u00a0", "\u200b", "\ufeff \u2009", "\x00"]
)
def test_what_cannot_be_seen_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["0", " a ", "None", "-", "é", "\u200ba", "你", "🙂"])
def test_what_can_be_seen_is_not_blank(text):
    assert not is_blank(text)


@pytest.mark.parametrize(
    "other",
    [
        "billing ",
        " billing",
        "Billing",
        "BILLING",
        "billing\u200b",
        "bil\u00adling",
        "\ufeffbilling",
        "billing\u00a0",
        "\uff42illing",
        "b illing",
    ],
)
def test_names_look_alike_that_differ_in_what_is_hardly_seen(other):
    assert looks(other) == looks("billing")
    assert alike(["billing", "billing", other]) == {"billing": [other]}


def test_forms_of_unicode_look_alike_and_are_told_apart_when_shown():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert alike([composed, decomposed, decomposed]) == {decomposed: [composed]}
    assert shown(composed) != shown(decomposed)
    assert shown("a\u200b") == "'a\\u200b'"
    assert alike(["straße", "STRASSE"]) == {"straße": ["STRASSE"]}


@pytest.mark.parametrize("pair", [("7", "007"), ("a", "á"), ("1.1", "1.10"), ("a-b", "a_b")])
def test_names_that_differ_visibly_do_not_look_alike(pair):
    assert alike(pair) == {}


def test_the_first_few_are_named_and_the_others_counted():
    assert few_of(["a", "b", "c"]) == "a, b, c"
    assert few_of([str(number) for number in range(2003)]) == "0, 1, 2 and 2,000 more"
