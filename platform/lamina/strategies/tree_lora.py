"""TreeLoRA (Qian et al., 2025): one LoRA stays close to where the most similar earlier task had it;
a bandit finds that task in a tree of the tasks' gradients.

Trained: one LoRA, and the head's rows of the task's classes. Remembered: per task the average over
its steps of every A since the start (its accumulated gradient; what it adds to the task before is
the task's own), and the tree of those. As in the paper the L1 distance is added to the loss; the
authors' code subtracts a dot product. As in that code it is scaled to the value of the loss, so
that `strength` does not depend on how far earlier tasks moved; there, the weight also grows over a
task's steps, here it is the same in all. Differs from the paper: the distance is a share of the
largest that two tasks could have, so that the bandit's bounds hold; one task is picked for all
layers, the one of the lowest bound (the code draws one per layer from a softmax).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log, sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from lamina.adapters.model import MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

TINY = 1e-12
"""The distance below which A counts as being where the picked task had it."""


@dataclass
class TreeLoRA(Strategy):
    """Cross-entropy over the task's classes, and the distance from a similar task."""

    strength: float = 0.5
    """lambda, the weight of the distance (0.5 in the authors' code)."""
    scale: Literal["loss", "paper"] = "loss"
    """What a strength of 1 means: the distance weighs as much as the loss, whatever its own size
    (`loss`), or it is added as a share of the largest that two tasks could have (`paper`)."""

    family = "lora"
    paper = (
        "TreeLoRA: Efficient Continual Learning via Layer-Wise LoRAs Guided by a Hierarchical "
        "Gradient-Similarity Tree"
    )
    year = 2025
    answers = ("classes", "tokens")
    adapters = ("lora",)
    from_second_task = ("strength", "scale")

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["strength"])

    def setup(self, model: AdaptedModel) -> None:
        """The LoRA, and where its A starts."""
        model.add()
        self.state.update(start=_flat(model).detach(), proxies=[])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """A tree of the tasks so far, and a bandit that has tried none of them."""
        self.state.update(num_steps=0, total=torch.zeros_like(self.state["start"]))
        if task.index == 0:
            return
        proxies = torch.stack(self.state["proxies"])
        # A does not move in the first step of a LoRA, whose B is zero.
        self.state["scale"] = 2 * float(proxies.abs().sum(dim=1).max()) or 1.0
        between = torch.cdist(proxies, proxies, p=1) / self.state["scale"]
        own = proxies.diff(dim=0, prepend=torch.zeros_like(proxies[:1]))
        layers = own.split([a.numel() for a in _factors(model)], dim=1)
        number = len(proxies)
        self.state["tree"] = grow(list(range(number)), layers, between)
        self.state.update(tried=[0] * number, distances=[0.0] * number)
        self.state["picked"] = self._search()

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda d, d = ||A - A_k||_1 / largest, k the task that the
        bandit picked; by default d is divided by its own value and multiplied by that of CE."""
        assert batch.task is not None
        loss = cross_entropy(model(batch.inputs).logits, batch.labels, batch.task.classes)
        if "picked" not in self.state:
            return StepOutput(loss)
        far = self._distance(model)
        weight = loss.detach() / far.detach().clamp_min(TINY) if self.scale == "loss" else 1.0
        return StepOutput(loss + self.strength * weight * far, {"distance": far.detach()})

    @torch.no_grad()
    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Accumulate A; tell the bandit how far the picked task is, and let it pick the next."""
        self.state["total"] = self.state["total"] + _flat(model) - self.state["start"]
        self.state["num_steps"] += 1
        if "picked" in self.state:
            picked = self.state["picked"]
            self.state["tried"][picked] += 1
            self.state["distances"][picked] += float(self._distance(model))
            self.state["picked"] = self._search()

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """The task's proxy joins the others."""
        self.state["proxies"].append(self.state["total"] / self.state["num_steps"])

    def _distance(self, model: AdaptedModel) -> Tensor:
        """||A - A_k||_1 of the picked task, as a share of the largest that two tasks could have."""
        picked = self.state["proxies"][self.state["picked"]]
        distance: Tensor = (_flat(model) - self.state["start"] - picked).abs().sum()
        return distance / self.state["scale"]

    def _search(self) -> int:
        """The task that the tree leads to, by the lowest bound on the distance at every fork."""
        tried, distances, step = (self.state[name] for name in ("tried", "distances", "num_steps"))
        width = log(2 * len(tried) * (step + 1) * (step + 2))
        node = self.state["tree"]
        while node["children"]:
            bounds = [lower_bound(child, tried, distances, width) for child in node["children"]]
            node = node["children"][bounds.index(min(bounds))]
        task: int = node["tasks"][0]
        return task


def grow(
    tasks: list[int], gradients: Sequence[Tensor], between: Tensor, depth: int = 0
) -> dict[str, Any]:
    """A node over `tasks`, with the largest distance between two of them. Its children are the half
    whose gradients [tasks, features] in this depth's layer are most like their mean, and the rest.
    """
    node = {"tasks": tasks, "diameter": float(between[tasks][:, tasks].max()), "children": []}
    if len(tasks) > 1:
        rows = gradients[depth % len(gradients)][tasks]
        order = (rows @ rows.mean(dim=0)).argsort(descending=True, stable=True).tolist()
        half = (len(tasks) + 1) // 2
        halves = [sorted(tasks[i] for i in piece) for piece in (order[:half], order[half:])]
        node["children"] = [grow(each, gradients, between, depth + 1) for each in halves]
    return node


def lower_bound(
    node: Mapping[str, Any], tried: Sequence[int], distances: Sequence[float], width: float
) -> float:
    """What the distance of the node's nearest task is at least, with high probability: from its own
    tries, and from its children (Coquelin and Munos, 2007)."""
    number = sum(tried[task] for task in node["tasks"])
    if number == 0:
        return -inf
    mean = sum(distances[task] for task in node["tasks"]) / number
    own = mean - sqrt(width / (2 * number)) - node["diameter"]
    if not node["children"]:
        return own
    return max(own, min(lower_bound(each, tried, distances, width) for each in node["children"]))


def _factors(model: AdaptedModel) -> list[Tensor]:
    """A of every module, from the first layer to the last."""
    tensors = model.adapters[MAIN].tensors
    return [tensor for name, tensor in tensors.items() if ".lora_A." in name]


def _flat(model: AdaptedModel) -> Tensor:
    """All of A, end to end."""
    return torch.cat([a.flatten() for a in _factors(model)])
