"""Saying at random what a hassil template can say, without listing everything that it could."""

from collections.abc import Mapping
from random import Random
from typing import Any

from lamina.streams.base import demo_module
from lamina.streams.sources._household import NUMBERS, Values


class Speaker:
    """A source of sentences in one language and one household."""

    def __init__(
        self,
        lists: Mapping[str, Any],
        rules: Mapping[str, str],
        household: Values,
        random: Random,
    ) -> None:
        """`lists` and `rules` are the language's slot lists and expansion rules, as published."""
        self._hassil = demo_module("hassil", "assistant")
        self._lists = lists
        self._rules = rules
        self._household = household
        self._random = random
        self._parsed: dict[str, Any] = {}
        self.room: str | None = None
        """The room that the last sentence was about, if any."""
        self.slots: list[tuple[str, str]] = []
        """What the last sentence filled in, by hassil's names of the slots, in its order."""

    def say(self, template: str, domain: str) -> str:
        """A sentence of `template` about a device of `domain`."""
        self.room, self.slots = None, []
        return " ".join(self._expand(self._parse(template), domain).split())

    def _parse(self, template: str) -> Any:
        if template not in self._parsed:
            self._parsed[template] = self._hassil.parse_sentence(template).expression
        return self._parsed[template]

    def _expand(self, phrase: Any, domain: str) -> str:
        hassil = self._hassil
        if isinstance(phrase, hassil.TextChunk):
            text: str = phrase.original_text
            return text
        if isinstance(phrase, hassil.RuleReference):
            return self._expand(self._parse(self._rules[phrase.rule_name]), domain)
        if isinstance(phrase, hassil.ListReference):
            return self._fill(phrase, domain)
        if isinstance(phrase, hassil.Alternative):
            # Authors write first what people say most; were all alike, half would sound odd.
            weights = [1 / place for place in range(1, len(phrase.items) + 1)]
            (item,) = self._random.choices(phrase.items, weights)
            return self._expand(item, domain)
        items = list(phrase.items)
        if isinstance(phrase, hassil.Permutation):
            self._random.shuffle(items)
        return "".join(self._expand(item, domain) for item in items)

    def _fill(self, reference: Any, domain: str) -> str:
        value = self._value(reference.list_name, domain)
        self.slots.append((reference.slot_name, value))
        if reference.list_name == "area":
            self.room = value
        return value

    def _value(self, slot: str, domain: str) -> str:
        """A value for a slot: of the household, a plausible number, or what the language lists."""
        for key in (f"{slot}/{domain}", slot):
            if key in self._household:
                return self._random.choice(self._household[key])
        if slot in NUMBERS:
            return str(self._random.choice(NUMBERS[slot]))
        listed = self._lists[slot]
        if "range" in listed:
            bounds = listed["range"]
            numbers = range(bounds["from"], bounds["to"] + 1, bounds.get("step", 1))
            return str(self._random.choice(numbers))
        value = self._random.choice(listed["values"])
        return self._expand(self._parse(value["in"]), domain)
