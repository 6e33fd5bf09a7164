"""Zero-shot (Radford et al., 2021): each input is compared by cosine with the names of the classes,
as the frozen backbone embeds them.

Trained: nothing. Remembered: one embedding per class name. Differs from the paper: one text encoder
reads inputs and names alike, where CLIP has a tower for each, so images have nothing to be compared
with. Names are taken apart into words (`TurnOn/light` is "Turn On light") and put into a template,
as the paper puts them into its prompts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.core import Batch, Samples, StepOutput, Summary, Task
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import NO_ADAPTER, Strategy


@dataclass
class ZeroShot(Strategy):
    """The nearest class name in cosine similarity."""

    template: str = "{}"
    """The text that is embedded for a class; `{}` stands for its name."""

    family = "baseline"
    paper = "Learning Transferable Visual Models From Natural Language Supervision"
    year = 2021
    classes_only = "it compares inputs with the names of classes"
    adapters = (NO_ADAPTER,)
    modalities = ("text",)
    trained_tasks = "none"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InputError(f"strategy.template: {self.template!r} has no {{}} for the name")

    def setup(self, model: AdaptedModel) -> None:
        """No adapter, and no name yet."""
        self.state["names"] = torch.zeros(0, model.backbone.dim, device=model.backbone.device)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """Never called: it takes no gradient step."""
        raise AssertionError("zero-shot classification takes no gradient step")

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Embed the names of the task's classes."""
        names = self.state["names"]
        names = F.pad(names, (0, 0, 0, model.num_classes() - len(names)))
        texts = [self.template.replace("{}", in_words(name)) for name in task.class_names]
        labels = torch.tensor(task.classes)
        encoded = model.backbone.encode(Samples(texts, labels, torch.arange(len(texts))))
        embedded = model.frozen_features(encoded.to(model.backbone.device).inputs)
        names[labels] = F.normalize(embedded, dim=1)
        self.state["names"] = names

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Cosine similarity to each name; minus infinity for a class that no task has shown."""
        names = self.state["names"]
        similarity = F.normalize(model.frozen_features(inputs), dim=1) @ names.T
        return similarity.masked_fill(~names.any(dim=1), float("-inf"))


def in_words(name: str) -> str:
    """An identifier as a person would write it: `set_TimerOff/light` is "set Timer Off light"."""
    return re.sub(r"[_/.\-\s]+|(?<=[a-z0-9])(?=[A-Z])", " ", name).strip()
