"""A stream small enough to run a strategy on it in a second, and learners on it."""

from dataclasses import replace

import torch

from lamina.adapters import kind_class
from lamina.core import PARTS, Batch, Experience, Samples, Stream, Task, generator_of
from lamina.memory import policy_class
from lamina.memory.memory import Replay
from lamina.strategies import strategy_class, strategy_names
from lamina.strategies.base import NO_ADAPTER
from lamina.training.learner import Learner
from lamina.training.settings import TrainingSettings

NOUNS = ["light", "door", "timer", "song", "shutter", "fan"]
PHRASES = [
    "turn on the {}",
    "{} please",
    "what about the {}",
    "stop the {} now",
    "is there a {} in the kitchen",
    "start my {}",
    "I want the {}",
    "check the {} in the living room please",
]

OF_CLASSES = [name for name in strategy_names() if "classes" in strategy_class(name).answers]
"""Strategies that answer with classes; the others, in tokens alone."""

NO_REPLAY = Replay(None, None, 0, "cpu")
"""What a step draws from where there is no memory."""

SMALL = {
    "ada": {"pool_size": 2},
    "hide_prompt": {"refit_epochs": 2},
    "lamol": {"longest": 6},
    "lfpt5": {"longest": 6},
    "ranpac": {"projection": 64},
    "safe": {"projection": 64},
    "sdft": {"longest": 6},
    "ssr": {"attempts": 8, "longest": 6},
}
"""Settings that make a strategy small enough for a tiny backbone."""


def nouns_stream(backbone) -> Stream[Batch]:
    """Three tasks of two classes; a sentence's class is its noun."""
    experiences = []
    for index in range(3):
        classes = (2 * index, 2 * index + 1)
        task = Task(index, f"task {index}", classes)
        texts = [(phrase.format(NOUNS[c]), c) for phrase in PHRASES for c in classes]
        ids = torch.arange(len(texts)) + 100 * index
        labels = torch.tensor([label for _, label in texts])
        samples = Samples([text for text, _ in texts], labels, ids)
        train = slice(0, 10), slice(10, 12), slice(12, 16)
        parts = [
            Samples(samples.values[rows], labels[rows], ids[rows])  # type: ignore[arg-type]
            for rows in train
        ]
        experiences.append(Experience(task, *parts))
    raw = Stream("nouns", "class_incremental", "text", tuple(NOUNS), tuple(experiences))
    return backbone.encode_stream(raw)


def shapes_stream(backbone) -> Stream[Batch]:
    """Three tasks of two classes for a vision transformer; a picture's class is where it is
    bright."""
    experiences = []
    for index in range(3):
        classes = (2 * index, 2 * index + 1)
        labels = torch.tensor(classes * len(PHRASES))
        ids = torch.arange(len(labels)) + 100 * index
        pictures = torch.randint(
            0, 60, (len(labels), 32, 32, 3), generator=generator_of(index), dtype=torch.uint8
        )
        for picture, label in zip(pictures, labels.tolist(), strict=True):
            row, column = divmod(label, 3)
            picture[16 * row : 16 * row + 16, 10 * column : 10 * column + 10] += 180
        parts = [
            Samples(list(pictures[rows]), labels[rows], ids[rows])
            for rows in (slice(0, 10), slice(10, 12), slice(12, 16))
        ]
        experiences.append(Experience(Task(index, f"task {index}", classes), *parts))
    names = tuple(f"shape {number}" for number in range(6))
    raw = Stream("shapes", "class_incremental", "image", names, tuple(experiences))
    return backbone.encode_stream(raw)


def as_scenario(stream: Stream[Batch], kind) -> Stream[Batch]:
    """The same tasks told otherwise; as domains, each shows the first one's two classes."""
    if kind != "domain_incremental":
        return replace(stream, scenario=kind, one_pass=kind == "task_free")
    experiences = []
    for each in stream.experiences:
        task = Task(each.task.index, each.task.name, (0, 1), each.task.class_names)
        parts = [
            replace(each.part(part), labels=each.part(part).labels % 2, task=task) for part in PARTS
        ]
        experiences.append(Experience(task, *parts))
    return replace(
        stream, scenario=kind, class_names=stream.class_names[:2], experiences=tuple(experiences)
    )


def make_learner(
    name,
    stream,
    backbone,
    *,
    adapter="lora",
    lora_layers=None,
    seed=0,
    training=None,
    workers=None,
    entry=None,
    **settings,
):
    """A learner with what the strategy declares that it needs; `lora_layers`: of a LoRA, `entry`:
    when rows enter its memory."""
    cls = strategy_class(name)
    if cls.adapters is not None and adapter not in cls.adapters:
        adapter = None if NO_ADAPTER in cls.adapters else cls.adapters[0]
    where = {"layers": lora_layers} if adapter == "lora" else {}
    return Learner(
        strategy=cls(**{**SMALL.get(name, {}), **settings}),
        adapter=kind_class(adapter)(**where) if adapter else None,
        memory=policy_class("class_balanced")(8, entry=entry) if cls.needs_memory else None,
        training=training or TrainingSettings(epochs=2, batch_size=4, learning_rate=1e-2),
        seed=seed,
        stream=stream,
        backbone=backbone,
        workers=workers,
    )


def after(num_tasks, name, stream, backbone, **settings):
    """A learner that has learned `num_tasks` tasks and has begun the next."""
    learner = make_learner(name, stream, backbone, **settings)
    reports = learner.learn()
    for _ in range(num_tasks):
        next(reports)
    experience = stream.experiences[num_tasks]
    learner.scores.costs.train_flops.append(0.0)
    learner.model.grow_head(max(experience.task.classes) + 1)
    preview = learner.summarise(learner.strategy.preview, experience.train)
    learner.strategy.begin_task(learner.model, experience.task, preview)
    return learner, experience.train


def logits_of(learner, data):
    """Of the active adapters and the shared head."""
    return learner.model(data.inputs).logits


def drift(learner, before):
    """How far the trained tensors moved."""
    now = learner.model.parameters()
    return sum((now[k][: len(v)] - v).abs().sum().item() for k, v in before.items())
