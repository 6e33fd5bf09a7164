"""A bundle on its backbone: it answers texts or images."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.bundles.bundle import Bundle
from lamina.bundles.generation import Generation, Prompt, turns_of
from lamina.core import ANSWER_AT, IGNORED, Batch, Samples, Task
from lamina.federation.shared_model import restore_ledger
from lamina.registry import InputError
from lamina.strategies.base import Strategy
from lamina.training.evaluate import logits_by_length, logits_of
from lamina.training.generate import TOGETHER
from lamina.training.learner import to_device


@dataclass(frozen=True)
class Prediction:
    """The prediction for one input."""

    label: str
    """The class with the best logit."""
    score: float
    """Its share of the softmax over the classes that compete: a probability as far as the
    strategy's logits are calibrated."""
    top: tuple[tuple[str, float], ...]
    """The best classes with their scores, the best one first."""
    task: str | None
    """The task whose module answered, where the strategy decides for one."""


@dataclass(frozen=True)
class Logits:
    """The logits of a strategy for N inputs, on the CPU."""

    logits: Tensor
    """float32 [N, classes]; minus infinity for classes that do not compete."""
    routes: Tensor | None
    """int64 [N], the task whose module answered, where the strategy decides for one."""


class Predictor:
    """A strategy as a trial left it, with its adapters on a backbone that others may share."""

    def __init__(self, bundle: Bundle, backbone: Backbone) -> None:
        """Raises InputError where a file of the bundle is not what was written."""
        self.bundle = bundle
        self.model = AdaptedModel(backbone, bundle.job.adapter, bundle.job.seed)
        self.strategy: Strategy = replace(bundle.job.strategy)
        self.strategy.setup(self.model)
        state = bundle.model
        self.model.load_state_dict(state["model"])
        restore_ledger(self.model)
        self.strategy.state = to_device(state["strategy"], backbone.device)
        self._batch_size = bundle.job.training.evaluation_batch_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """The columns of logits."""
        return self.bundle.facts.class_names[: self.model.num_classes()]

    @property
    def needs_task(self) -> bool:
        """Whether every prediction must be told its task."""
        return self.bundle.facts.needs_task

    @property
    def max_new_tokens(self) -> int:
        """Tokens of an answer at most, where nobody says how many: as many as its trial's."""
        return self.bundle.job.training.max_new_tokens

    def predict(
        self, values: Sequence[Any], task: str | None = None, top_k: int = 1
    ) -> list[Prediction]:
        """Predictions for N texts, or for N images as uint8 tensors [height, width, 3].

        `task` is the name of their task, where predictions may know it. Raises InputError where it
        is missing, unknown, or of no use, for something that is no text or image, and where answers
        are texts.
        """
        self.bundle.check_classes("predict")
        if not len(values):
            return []
        data = self.encode(values)
        return self.named(self.logits(data, self.task_named(task)), top_k)

    def generate(
        self,
        prompts: Sequence[Prompt],
        task: str | None = None,
        max_new_tokens: int | None = None,
        domains: Sequence[str | None] | None = None,
    ) -> list[Generation]:
        """What is said behind N prompts, by greedy decoding, of `max_new_tokens` at most (default:
        the bundle's own).

        A prompt is a text, or a conversation as messages of `role` and `content`; it becomes what
        the prompts of the stream were. `task` as in `predict`; `domains`, where prompts of tasks
        differ (`stream.prompt_format`), the task that each is to look like one of. Raises
        InputError where it does not fit, for something that is no prompt, where so many tokens
        leave a prompt no room, and where answers are classes.
        """
        if self.bundle.facts.answers == "classes":
            raise InputError(
                f"generate: {str(self.bundle.folder)!r} answers with classes (allowed: predict)"
            )
        if not len(prompts):
            return []
        max_new_tokens = self.max_new_tokens if max_new_tokens is None else max_new_tokens
        data, known = self.encode_prompts(prompts, max_new_tokens, domains), self.task_named(task)
        found: dict[int, Generation] = {}
        for rows in data.lengths().argsort(stable=True).split(TOGETHER):
            said = self.generated(data[rows].trimmed(), max_new_tokens, known)
            found |= zip(rows.tolist(), said, strict=True)
        return [found[row] for row in range(len(data))]

    def encode_prompts(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        domains: Sequence[str | None] | None = None,
    ) -> Batch:
        """Prompts as the backbone takes them, cut where `max_new_tokens` behind them would have no
        room. Raises InputError as `generate` does."""
        if isinstance(prompts, str):
            raise InputError("prompts: one text was given (allowed: a list of texts)")
        if max_new_tokens < 1:
            raise InputError(f"max_new_tokens: {max_new_tokens} is not positive")
        stream = self.bundle.job.stream
        asked = [
            stream.prompt_of(turns_of(each, f"prompts: number {place + 1}"), domain)
            for place, (each, domain) in enumerate(
                zip(prompts, domains or [None] * len(prompts), strict=True)
            )
        ]
        inputs = self.model.backbone.inputs.encode_prompts(asked, max_new_tokens)
        nothing = torch.zeros(len(asked), 0, dtype=torch.int64)
        return Batch(inputs, nothing, torch.arange(len(asked)))

    @torch.no_grad()
    def generated(
        self, batch: Batch, max_new_tokens: int, task: Task | None = None
    ) -> list[Generation]:
        """Generated tokens behind prompts that are run together, as they are padded."""
        backbone, strategy = self.model.backbone, self.strategy
        inputs = batch.to(backbone.device).inputs
        said = strategy.generate(self.model, inputs, task, max_new_tokens)
        names: list[str | None] = [None] * len(batch)
        if strategy.routes and task is None:
            routes = strategy.route(self.model, inputs).tolist()
            names = [self.bundle.facts.tasks[route].name for route in routes]
        texts = backbone.inputs.texts_of(said)
        own = ((said != IGNORED) & (said != backbone.inputs.end_token)).sum(dim=1).tolist()
        read = inputs.get(ANSWER_AT, batch.lengths()).tolist()
        ended = (said == backbone.inputs.end_token).any(dim=1).tolist()
        return [Generation(*each) for each in zip(texts, names, own, read, ended, strict=True)]

    def encode(self, values: Sequence[Any]) -> Batch:
        """Values as the backbone takes them. Raises InputError for something else."""
        is_text = self.model.backbone.modality == "text"
        if is_text and isinstance(values, str):
            raise InputError("values: one text was given (allowed: a list of texts)")
        wrong = [place for place, each in enumerate(values) if is_text and not _is_text(each)]
        if wrong:
            raise InputError(
                f"values: number {wrong[0] + 1} is no text or an empty one: "
                f"{values[wrong[0]]!r:.80} (allowed: texts)"
            )
        number = len(values)
        samples = Samples(values, torch.zeros(number, dtype=torch.int64), torch.arange(number))
        return self.model.backbone.encode(samples)

    def task_named(self, name: str | None) -> Task | None:
        """The task of this name, where predictions are told theirs. Raises InputError where that
        does not fit."""
        return self.bundle.facts.told(name, "--task")

    @torch.no_grad()
    def logits(self, data: Batch, task: Task | None = None) -> Logits:
        """The logits of rows, in their order. Texts of about the same length are run together, as
        in the trial's evaluation."""
        asked = (self.strategy, self.model, data, task, self._batch_size)
        order = data.lengths().argsort(stable=True)
        logits = torch.cat([each.float().cpu() for _, each in logits_by_length(*asked)])
        logits[order] = logits.clone()
        routes = None
        if self.strategy.routes and task is None:
            found = [self.strategy.route(self.model, each) for each in self._inputs(data)]
            routes = torch.cat(found).cpu()
            routes[order] = routes.clone()
        return Logits(logits, routes)

    @torch.no_grad()
    def logits_of(self, batch: Batch, task: Task | None = None) -> Logits:
        """The logits of rows that are run together, as they are padded: equal to `logits` up to the
        rounding of float sums."""
        moved = batch.to(self.model.backbone.device)
        logits = logits_of(self.strategy, self.model, moved, task).float().cpu()
        if not self.strategy.routes or task is not None:
            return Logits(logits, None)
        return Logits(logits, self.strategy.route(self.model, moved.inputs).cpu())

    def named(self, found: Logits, top_k: int = 1) -> list[Prediction]:
        """Logits as names and scores."""
        names, tasks = self.class_names, self.bundle.facts.tasks
        scores = found.logits.softmax(dim=1).topk(min(top_k, len(names)), dim=1)
        routes = [None] * len(found.logits) if found.routes is None else found.routes.tolist()
        predictions = []
        for values, places, route in zip(
            scores.values.tolist(), scores.indices.tolist(), routes, strict=True
        ):
            top = tuple((names[place], value) for place, value in zip(places, values, strict=True))
            task = None if route is None else tasks[route].name
            predictions.append(Prediction(*top[0], top, task))
        return predictions

    def _inputs(self, data: Batch) -> Iterator[Mapping[str, Tensor]]:
        for batch in data.by_length().chunks(self._batch_size):
            yield batch.to(self.model.backbone.device).inputs


def load_predictor(bundle: Bundle, device: torch.device | str | None = None) -> Predictor:
    """A bundle on a backbone of its own, on a GPU where there is one unless `device` says
    otherwise. Raises InputError where the backbone is not there, or is another one than the
    trial's."""
    bundle.check_backbone()
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(bundle, load_backbone(bundle.job.backbone, where))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
