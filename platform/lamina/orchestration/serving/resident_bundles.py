"""The bundles of a replica: resident on as few backbones as they need, and how they answer
together."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.bundles import Bundle, Generation, Prediction, Predictor
from lamina.bundles.predictor import Logits
from lamina.core import AnswerKind, Batch, Samples
from lamina.orchestration.serving.question import Question
from lamina.orchestration.serving.settings import ServingSettings
from lamina.registry import InputError
from lamina.streams.images import decode
from lamina.streams.sources.huggingface import HuggingFace
from lamina.training.cohort import shared, together

Answer = list[Prediction] | list[Generation] | Exception
"""The answers to a question's inputs, in their order; or why there is no answer: an InputError
where an input is to blame."""

_BackboneKey = tuple[str, BackboneSettings]
"""The digest of its files, and how it is held; its name says no more than the digest."""
_Group = tuple[str, str | None]
"""A group of rows: those of one bundle with one known task."""
_Asked = tuple[str, str | None, int]
"""A group of rows, and how many tokens each may get."""
Group = TypeVar("Group", _Group, _Asked)
Found = TypeVar("Found")


class ResidentBundles:
    """Predictors whose calls of the backbone meet: one forward for the rows of several bundles.

    Weights are loaded once for a digest: bundles that pool or cut texts otherwise share them.
    """

    def __init__(
        self, bundles: Mapping[str, Bundle], settings: ServingSettings, device: torch.device | str
    ) -> None:
        """Raises InputError where a file of a bundle, or its backbone, is not what was written."""
        self._settings = settings
        self._device = torch.device(device)
        self._backbones: dict[_BackboneKey, Backbone] = {}
        self._keys: dict[str, _BackboneKey] = {}
        self._predictors: dict[str, Predictor] = {}
        for name, bundle in bundles.items():
            bundle.check_backbone()
            key = self._keys[name] = _key(bundle)
            if key not in self._backbones:
                self._backbones[key] = self._loaded(key, bundle)
            self._predictors[name] = Predictor(bundle, shared(self._backbones[key]))

    @property
    def num_loaded(self) -> int:
        """How many models are in memory."""
        return len({id(each.model) for each in self._backbones.values()})

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """The answer to each question. An error concerns only the question that caused it."""
        try:
            return self._answer(questions)
        except Exception as error:
            if len(questions) > 1:
                return [self.answer([each])[0] for each in questions]
            return [_plain(error)]

    def _loaded(self, key: _BackboneKey, bundle: Bundle) -> Backbone:
        alike = [
            each
            for (digest, held), each in self._backbones.items()
            if digest == key[0]
            and (held.dtype, held.quantize, held.tower)
            == (key[1].dtype, key[1].quantize, key[1].tower)
        ]
        return load_backbone(bundle.job.backbone, self._device, alike[0] if alike else None)

    def _answer(self, questions: Sequence[Question]) -> list[Answer]:
        alike: dict[tuple[_BackboneKey, AnswerKind], list[int]] = defaultdict(list)
        for place, each in enumerate(questions):
            kind = self._predictors[each.bundle].bundle.facts.answers
            alike[self._keys[each.bundle], kind].append(place)
        answers: dict[int, Answer] = {}
        for (key, kind), places in alike.items():
            asked = [questions[place] for place in places]
            found = (
                self._generations(asked)
                if kind == "tokens"
                else self._answer_on(self._backbones[key], asked)
            )
            answers |= zip(places, found, strict=True)
        return [answers[place] for place in range(len(questions))]

    def _answer_on(self, backbone: Backbone, questions: Sequence[Question]) -> list[Answer]:
        """Questions to bundles of one backbone."""
        values: list[Any] = []
        groups: list[_Group] = []
        spans: list[slice | InputError] = []
        for each in questions:
            try:
                read = self._read(each)
            except InputError as error:
                spans.append(error)
                continue
            spans.append(slice(len(values), len(values) + len(read)))
            values += read
            groups += [(each.bundle, each.task)] * len(read)
        top_k = max(each.top_k for each in questions)
        found = self._predictions(backbone, values, groups, top_k) if values else []
        return [
            span if isinstance(span, InputError) else _cut(found[span], each.top_k)
            for span, each in zip(spans, questions, strict=True)
        ]

    def _generations(self, questions: Sequence[Question]) -> list[Answer]:
        """The texts that bundles of one backbone generate behind prompts. Prompts of about the same
        length are run together, whatever their bundle and their number of tokens."""
        read: list[Batch] = []
        groups: list[_Asked] = []
        spans: list[range | Exception] = []
        for each in questions:
            predictor = self._predictors[each.bundle]
            max_new_tokens = each.max_new_tokens or min(
                predictor.max_new_tokens, self._settings.max_new_tokens
            )
            try:
                read.append(predictor.encode_prompts(each.values, max_new_tokens))
            except InputError as error:
                spans.append(error)
                continue
            spans.append(range(len(groups), len(groups) + len(each.values)))
            groups += [(each.bundle, each.task, max_new_tokens)] * len(each.values)
        found: dict[int, Generation | Exception] = {}
        for rows, batch in _by_length(read, self._settings.batch_rows):
            own = [groups[row] for row in rows.tolist()]
            for _, places, said in self._run(batch, own, self._generated):
                several = [said] * len(places) if isinstance(said, Exception) else said
                found |= zip(rows[places].tolist(), several, strict=True)
        return [
            span if isinstance(span, Exception) else _whole([found[row] for row in span])
            for span in spans
        ]

    def _read(self, question: Question) -> Sequence[Any]:
        """Values as a predictor takes them. Raises InputError for what is no image, or too
        large a one."""
        predictor = self._predictors[question.bundle]
        if predictor.model.backbone.modality == "text":
            return question.values
        stream = predictor.bundle.job.stream
        background = stream.background if isinstance(stream, HuggingFace) else "white"
        max_pixels = self._settings.max_pixels
        return [
            torch.from_numpy(decode(content, f"inputs[{place}]", background, max_pixels))
            for place, content in enumerate(question.values)
        ]

    def _predictions(
        self, backbone: Backbone, values: Sequence[Any], groups: Sequence[_Group], top_k: int
    ) -> list[Prediction | Exception]:
        """The predictions for N values, each with its group. Texts of about the same length are run
        together, whatever their bundle."""
        number = len(values)
        samples = Samples(values, torch.zeros(number, dtype=torch.int64), torch.arange(number))
        data = backbone.encode(samples)
        found: dict[int, Prediction | Exception] = {}
        for rows in data.lengths().argsort(stable=True).split(self._settings.batch_rows):
            own = [groups[row] for row in rows.tolist()]
            batch = data[rows].trimmed()
            for group, places, logits in self._run(batch, own, self._logits):
                said: Sequence[Prediction | Exception]
                if isinstance(logits, Exception):
                    said = [logits] * len(places)
                else:
                    said = self._predictors[group[0]].named(logits, top_k)
                found |= zip(rows[places].tolist(), said, strict=True)
        return [found[row] for row in range(number)]

    def _run(
        self,
        batch: Batch,
        groups: Sequence[Group],
        answer: Callable[[Group, Batch], Found | Exception],
    ) -> list[tuple[Group, Tensor, Found | Exception]]:
        """The result of `answer` for each group's rows of a batch, with their places in the batch.
        All rows are padded to one length, so that their calls of the backbone can run together."""
        places: dict[Group, list[int]] = defaultdict(list)
        for place, group in enumerate(groups):
            places[group].append(place)
        chosen = {group: torch.tensor(own) for group, own in places.items()}
        calls = [partial(answer, group, batch[own]) for group, own in chosen.items()]
        found = together(calls, len(calls), self._settings.batch_rows)
        return [
            (group, own, each) for (group, own), each in zip(chosen.items(), found, strict=True)
        ]

    def _logits(self, group: _Group, batch: Batch) -> Logits | Exception:
        name, task = group
        predictor = self._predictors[name]
        try:
            return predictor.logits_of(batch, predictor.task_named(task))
        except Exception as error:
            # Raised, it would end the others' calls as well.
            return _plain(error)

    def _generated(self, group: _Asked, batch: Batch) -> list[Generation] | Exception:
        name, task, max_new_tokens = group
        predictor = self._predictors[name]
        try:
            return predictor.generated(batch, max_new_tokens, predictor.task_named(task))
        except Exception as error:
            # As above.
            return _plain(error)


def _key(bundle: Bundle) -> _BackboneKey:
    return bundle.facts.backbone.digest, replace(bundle.job.backbone, name="")


def _by_length(read: Sequence[Batch], batch_rows: int) -> Iterator[tuple[Tensor, Batch]]:
    """Prompts of about one length together, with their numbers among all."""
    if read:
        data = Batch.cat(read)
        for rows in data.lengths().argsort(stable=True).split(batch_rows):
            yield rows, data[rows].trimmed()


def _whole(found: Sequence[Generation | Exception]) -> Answer:
    """Generations; the first error if there is one."""
    said: list[Generation] = []
    for each in found:
        if isinstance(each, Exception):
            return each
        said.append(each)
    return said


def _cut(found: Sequence[Prediction | Exception], top_k: int) -> Answer:
    """Predictions with so many classes each; the first error if there is one."""
    predictions: list[Prediction] = []
    for each in found:
        if isinstance(each, Exception):
            return each
        predictions.append(replace(each, top=each.top[:top_k]))
    return predictions


def _plain(error: Exception) -> Exception:
    """An error that another process can read, whatever classes it has."""
    if isinstance(error, InputError):
        return InputError(str(error))
    return RuntimeError(f"{type(error).__name__}: {error}"[:500])
