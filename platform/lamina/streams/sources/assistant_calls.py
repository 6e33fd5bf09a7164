"""Commands to a voice assistant, answered with the calls that carry them out."""

from collections import Counter
from dataclasses import dataclass

from lamina.core import AnswerKind, Modality
from lamina.registry import InputError, unknown
from lamina.streams.base import Source, Table
from lamina.streams.sources.assistant import OTHER_TASK, TASKS, Assistant, Sentence

_ALL_TASKS = (*TASKS, OTHER_TASK)


@dataclass(frozen=True)
class AssistantCalls(Source):
    """The commands of `assistant`; an answer is the intent with what is in its slots, as said:
    "change the kitchen temperature to 19" is
    `HassClimateSetTemperature(area=kitchen, temperature=19)`.

    Tasks are what commands are about, and each has intents of its own. What is tested is asked in
    words that were never trained: of a template of its own. (`assistant` keeps templates together
    that fill the same slots; but who never saw a slot of an intent cannot know its name.)
    """

    language: str = "en"
    """A language of `home-assistant-intents`."""
    sentences_per_intent: int = 80
    """At most this many different sentences of each intent, spread evenly over its templates."""
    tasks: tuple[str, ...] = _ALL_TASKS
    """Which tasks, in this order."""

    def __post_init__(self) -> None:
        for each in self.tasks:
            if each not in _ALL_TASKS:
                raise unknown("stream.tasks", each, _ALL_TASKS)
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise InputError(
                f"stream.tasks: {list(self.tasks)!r} is not allowed (allowed: different ones)"
            )

    @property
    def modality(self) -> Modality:
        """Texts."""
        return "text"

    @property
    def answers(self) -> AnswerKind:
        """Calls, as texts."""
        return "tokens"

    def load(self, seed: int) -> Table:
        """The commands, task by task. Raises InputError as `assistant` does."""
        spoken = Assistant(self.language, self.sentences_per_intent).sentences(seed)
        sentences = [each for task in self.tasks for each in spoken if each.task == task]
        return Table(
            modality=self.modality,
            values=[each.text for each in sentences],
            labels=[each.label for each in sentences],
            classes=list(dict.fromkeys(each.label for each in sentences)),
            groups=[each.task for each in sentences],
            templates=[f"{each.label}: {each.template}" for each in sentences],
            targets=[call_of(each) for each in sentences],
        )


def call_of(sentence: Sentence) -> str:
    """The intent with its slots; one that is filled twice is numbered, so that each has its own
    name."""
    seen: Counter[str] = Counter()
    filled = []
    for slot, value in sentence.slots:
        seen[slot] += 1
        name = slot if seen[slot] == 1 else f"{slot}_{seen[slot]}"
        filled.append(f"{name}={value}")
    intent = sentence.label.partition("/")[0]
    return f"{intent}({', '.join(filled)})"
