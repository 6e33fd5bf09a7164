"""Voice-assistant commands in many languages; tasks are what they are about."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from lamina.core import Modality, seed_of
from lamina.registry import InputError, unknown
from lamina.streams.base import Source, Table, demo_module
from lamina.streams.sources._household import ANYWHERE, HOUSEHOLDS
from lamina.streams.sources._speaker import Speaker

TASKS = {
    "lights": {"light"},
    "doors and covers": {"cover", "lock", "binary_sensor"},
    "climate": {"climate", "fan"},
    "media": {"media_player"},
    "timers": {"timer"},
}
OTHER_TASK = "household"
"""The task of every domain that no other task has: vacuums, weather, scenes, people ..."""

_DEVICE = "device"
"""The domain of what may be anything: "turn on the {name}" is a kettle or a fountain."""

_SAME_DOMAIN = {
    "valve": "cover",
    "switch": _DEVICE,
    "input_boolean": _DEVICE,
    "homeassistant": _DEVICE,
}
"""Valves open and close in the words of covers; switches and the like are devices."""

_MEANING_IS_THE_DOMAINS = {"HassTurnOn", "HassTurnOff", "HassGetState"}
"""Turning on a lock locks it and turning on a cover opens it, so these are an intent per domain."""

_NOT_COMMANDS = {"HassRespond"}
"""Small talk: one of its sentences teaches nothing about the next."""

_FEWEST_FORMS = 3
"""One for each of train, validation and test."""

_FEWEST_INTENTS = 4
_NO_ROOM = "anywhere"
"""Where a sentence is said that names no room."""

_TRIES = 20
"""Draws without a new sentence after which a template counts as exhausted."""

_STUTTERS = re.compile(r"\b(\w+) \1\b|\b(the|my|our|there) (the|my|our)\b")
"""What nobody says, and templates with an optional article in two places would."""


@dataclass(frozen=True)
class Assistant(Source):
    """Commands to a smart home, labelled with their intent.

    Every sentence is drawn from a template of `home-assistant-intents`, with a plausible household
    in its slots. Templates that fill the same slots are one form of asking ("the lights in an
    area", "a light by its name"), and forms are what a split keeps together: what is tested is
    asked in a form that was never trained, so nothing leaks. Only an intent of fewer than three
    forms is split by its single templates. English has a household of its own; the others use names
    that most languages understand. Of several languages, intents are the same classes, and forms
    are kept together across them. The natural clients of a federation are `language` and `room`.
    """

    language: str | tuple[str, ...] = "en"
    """A language of `home-assistant-intents` (en, de, pt-BR, zh-CN ...), or several."""
    sentences_per_intent: int = 80
    """At most this many different sentences of each intent in each language, spread evenly over its
    templates."""

    def __post_init__(self) -> None:
        if not self._languages or len(set(self._languages)) < len(self._languages):
            raise InputError(
                f"stream.language: {list(self._languages)!r} is not allowed "
                "(allowed: a language, or a list of different ones)"
            )
        if self.sentences_per_intent < _FEWEST_FORMS:
            raise InputError(
                f"stream.sentences_per_intent: {self.sentences_per_intent} is too few "
                f"(allowed: {_FEWEST_FORMS} or more)"
            )

    @property
    def modality(self) -> Modality:
        """Texts."""
        return "text"

    def load(self, seed: int) -> Table:
        """The sentences, task by task and intent by intent.

        Raises InputError for an unknown language, and for one with too few intents to tell apart.
        """
        sentences = self.sentences(seed)
        labels = list(dict.fromkeys(sentence.label for sentence in sentences))
        if len(labels) < _FEWEST_INTENTS:
            raise InputError(
                f"stream.language: {self.language!r} has {len(labels)} intents of "
                f"{_FEWEST_FORMS} templates or more, and {_FEWEST_INTENTS} are needed"
            )
        return Table(
            modality=self.modality,
            values=[sentence.text for sentence in sentences],
            labels=[sentence.label for sentence in sentences],
            classes=labels,
            groups=[sentence.task for sentence in sentences],
            templates=[sentence.key for sentence in sentences],
            owners={
                "language": [sentence.language for sentence in sentences],
                "room": [sentence.room for sentence in sentences],
            },
        )

    def sentences(self, seed: int) -> list["Sentence"]:
        """What is said, task by task and intent by intent. Raises InputError for an unknown
        language."""
        drawn: list[Sentence] = []
        tasks: dict[str, str] = {}
        for language in self._languages:
            intents, sentences = self._say(language, seed)
            tasks = {intent.label: intent.task for intent in intents} | tasks
            drawn += sentences
        told = [replace(each, task=tasks[each.label]) for each in drawn]
        return _with_enough_forms(_once(_unambiguous(told)))

    @property
    def _languages(self) -> tuple[str, ...]:
        return (self.language,) if isinstance(self.language, str) else self.language

    def _say(self, language: str, seed: int) -> tuple[list["_Intent"], list["Sentence"]]:
        """The intents of a language, and sentences of each."""
        package = demo_module("home_assistant_intents", self.name)
        if language not in package.get_languages():
            raise unknown("stream.language", language, package.get_languages())
        data = package.get_intents(language)
        random = Random(seed_of(seed, "stream", self.name, language))
        household = HOUSEHOLDS.get(language, ANYWHERE)
        speaker = Speaker(data["lists"], data["expansion_rules"], household, random)
        intents = _intents(data["intents"], package.get_intent_info())
        return intents, [
            sentence
            for intent in intents
            for sentence in _draw(intent, speaker, self.sentences_per_intent, language, random)
        ]


@dataclass(frozen=True)
class _Template:
    text: str
    """In hassil's notation."""
    form: str
    """Which slots it fills."""
    domain: str
    """What kind of thing it is about."""


@dataclass(frozen=True)
class _Intent:
    label: str
    task: str
    templates: list[_Template] = field(default_factory=list)


@dataclass(frozen=True)
class Sentence:
    """Something that is said to a smart home."""

    text: str
    label: str
    """Its intent."""
    template: str
    form: str
    """Which slots its template fills."""
    language: str
    room: str
    slots: tuple[tuple[str, str], ...]
    """What is in its slots, in the order in which it is said."""
    task: str = ""
    """What it is about."""
    key: str = ""
    """Its form or its template: what a split keeps together."""


def _intents(data: Mapping[str, Any], info: Mapping[str, Any]) -> list[_Intent]:
    """The intents of a language, task by task; a template is the first intent's that has it."""
    found: dict[str, _Intent] = {}
    taken: set[str] = set()
    for name, intent in data.items():
        if name in _NOT_COMMANDS:
            continue
        for block in intent["data"]:
            domain = _domain(name, info[name]["domain"], block)
            label = f"{name}/{domain}" if name in _MEANING_IS_THE_DOMAINS else name
            task = next((task for task, its in TASKS.items() if domain in its), OTHER_TASK)
            form = block["metadata"]["slot_combination"]
            templates = found.setdefault(label, _Intent(label, task)).templates
            for text in block["sentences"]:
                if text not in taken:
                    taken.add(text)
                    templates.append(_Template(text, form, domain))
    order = [*TASKS, OTHER_TASK]
    return sorted(found.values(), key=lambda intent: order.index(intent.task))


def _domain(name: str, otherwise: str, block: Mapping[str, Any]) -> str:
    """What kind of thing a block of templates is about."""
    if "Timer" in name:
        return "timer"
    domain = block.get("slots", {}).get("domain")
    named = [domain] if domain else block.get("requires_context", {}).get("domain", [otherwise])
    same = {_SAME_DOMAIN.get(domain, domain) for domain in named}
    return same.pop() if len(same) == 1 else _DEVICE


def _draw(
    intent: _Intent, speaker: Speaker, most: int, language: str, random: Random
) -> list[Sentence]:
    """At most `most` different sentences, one of each template in turn."""
    drawn: dict[str, Sentence] = {}
    templates = random.sample(intent.templates, len(intent.templates))
    while templates:
        for template in list(templates):
            for _ in range(_TRIES):
                text = speaker.say(template.text, template.domain)
                if text.casefold() not in drawn and not _STUTTERS.search(text):
                    break
            else:
                templates.remove(template)
                continue
            room = speaker.room or _NO_ROOM
            drawn[text.casefold()] = Sentence(
                text,
                intent.label,
                template.text,
                template.form,
                language,
                room,
                tuple(speaker.slots),
            )
            if len(drawn) == most:
                return list(drawn.values())
    return list(drawn.values())


def _unambiguous(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Those that only one intent has."""
    labels: dict[str, set[str]] = {}
    for sentence in sentences:
        labels.setdefault(sentence.text.casefold(), set()).add(sentence.label)
    return [each for each in sentences if len(labels[each.text.casefold()]) == 1]


def _once(sentences: Sequence[Sentence]) -> list[Sentence]:
    """What two languages say in the same words is the first one's."""
    first: dict[str, Sentence] = {}
    for sentence in sentences:
        first.setdefault(sentence.text.casefold(), sentence)
    return list(first.values())


def _with_enough_forms(sentences: Sequence[Sentence]) -> list[Sentence]:
    """Those of intents that can be split, each with the key by which it is."""
    forms: dict[str, set[str]] = {}
    templates: dict[str, set[str]] = {}
    for each in sentences:
        forms.setdefault(each.label, set()).add(each.form)
        templates.setdefault(each.label, set()).add(each.template)
    return [
        replace(
            each,
            key=f"{each.label}: "
            + (each.form if len(forms[each.label]) >= _FEWEST_FORMS else each.template),
        )
        for each in sentences
        if len(templates[each.label]) >= _FEWEST_FORMS
    ]
