"""The assistant stream: real Home Assistant templates, nothing shared between parts."""

from collections import Counter
from itertools import pairwise

import pytest

from lamina.core import PARTS
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, build_stream, make_stream, source_class
from lamina.streams.sources import assistant

Assistant = source_class("assistant")
CLASS_INCREMENTAL = ScenarioSettings(kind="class_incremental")


@pytest.fixture(scope="module")
def table():
    return Assistant().load(seed=0)


@pytest.fixture(scope="module")
def stream(table):
    return make_stream(table, CLASS_INCREMENTAL, seed=0)


def test_english_has_six_tasks_and_about_two_thousand_training_sentences(stream):
    assert [each.task.name for each in stream.experiences] == [
        "lights",
        "doors and covers",
        "climate",
        "media",
        "timers",
        "household",
    ]
    assert len(stream.class_names) == 43
    sizes = {part: sum(len(each.part(part)) for each in stream.experiences) for part in PARTS}
    assert 1600 <= sizes["train"] <= 2200
    assert 500 <= sizes["validation"] <= 800
    assert 700 <= sizes["test"] <= 1000


def test_train_validation_and_test_sentences_never_share_a_template(table, stream):
    seen: dict[str, str] = {}
    for each in stream.experiences:
        for part in PARTS:
            for row in each.part(part).ids.tolist():
                assert seen.setdefault(table.templates[row], part) == part


def test_a_template_has_one_intent_and_one_form_so_that_splitting_by_form_splits_by_template():
    from home_assistant_intents import get_intent_info, get_intents

    for language in ("en", "de"):
        intents = assistant._intents(get_intents(language)["intents"], get_intent_info())
        texts = [template.text for intent in intents for template in intent.templates]
        assert len(texts) == len(set(texts))


def test_no_sentence_occurs_twice_not_even_in_other_letters(stream):
    sentences = [
        text.casefold()
        for each in stream.experiences
        for part in PARTS
        for text in each.part(part).values
    ]
    assert len(sentences) == len(set(sentences))


def test_intents_are_about_equally_frequent(table):
    frequency = Counter(table.labels)
    assert max(frequency.values()) == 80
    assert min(frequency.values()) >= 40


def test_no_slot_or_notation_is_left_in_a_sentence(table):
    assert not [text for text in table.values if set(text) & set("{}<>[]()|;")]
    assert all(text == " ".join(text.split()) and text for text in table.values)


def test_no_sentence_says_a_word_twice_in_a_row(table):
    for text in table.values:
        words = text.casefold().split()
        assert all(first != second for first, second in pairwise(words)), text


def test_slots_name_devices_that_fit_what_is_asked_of_them(table):
    openers = {
        text
        for text, label in zip(table.values, table.labels, strict=True)
        if label == "HassTurnOn/cover"
    }
    assert any("garage door" in text for text in openers)
    assert not any("kettle" in text or "Sonos" in text for text in openers)


def test_the_same_seed_gives_the_same_sentences_and_another_seed_others(table):
    assert Assistant().load(seed=0) == table
    assert Assistant().load(seed=1).values != table.values


def test_fewer_sentences_per_intent_make_a_smaller_stream():
    few = Assistant(sentences_per_intent=12).load(seed=0)
    assert max(Counter(few.labels).values()) == 12


@pytest.mark.parametrize("language", ["de", "pt-BR", "zh-CN", "ar", "ko"])
def test_other_languages_make_streams_too(language):
    stream = build_stream(Assistant(language=language), CLASS_INCREMENTAL, seed=0)
    assert len(stream) == 6
    assert len(stream.class_names) >= 20


def test_an_unknown_language_is_refused_with_the_nearest_one():
    with pytest.raises(
        InputError, match=r"^stream\.language: 'pt-br' is unknown; did you mean 'pt-BR'\?"
    ):
        Assistant(language="pt-br").load(seed=0)


def test_a_language_with_too_few_intents_is_refused():
    with pytest.raises(InputError, match=r"^stream\.language: 'sw' has 0 intents .* 4 are needed"):
        Assistant(language="sw").load(seed=0)


def test_too_few_sentences_per_intent_are_refused():
    with pytest.raises(InputError, match=r"^stream\.sentences_per_intent: 2 is too few"):
        Assistant(sentences_per_intent=2)


def test_rooms_are_those_that_sentences_name(table):
    rooms = Counter(table.owners["room"])
    assert {"kitchen", "nursery", "anywhere"} <= set(rooms)
    for text, room in zip(table.values, table.owners["room"], strict=True):
        assert room == "anywhere" or room in text


def test_several_languages_share_their_intents_and_keep_forms_together():
    table = Assistant(language=("en", "de"), sentences_per_intent=12).load(seed=0)
    english = Assistant(sentences_per_intent=12).load(seed=0)
    assert Counter(table.owners["language"]).keys() == {"en", "de"}
    assert set(english.classes) <= set(table.classes)
    assert len({text.casefold() for text in table.values}) == len(table)
    part_of: dict[str, str] = {}
    for each in make_stream(table, CLASS_INCREMENTAL, seed=0).experiences:
        for part in PARTS:
            for row in each.part(part).ids.tolist():
                assert part_of.setdefault(table.templates[row], part) == part


@pytest.mark.parametrize("language", [(), ("en", "en")])
def test_a_list_of_languages_without_different_ones_is_refused(language):
    with pytest.raises(InputError, match=r"^stream\.language: .* a list of different ones"):
        Assistant(language=language)
