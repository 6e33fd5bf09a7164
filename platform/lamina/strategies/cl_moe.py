"""CL-MoE (Huai et al., 2025): a mixture of LoRAs with two routers, of the token and of the task,
and experts that keep the more of what they were, the more earlier tasks count on them.

Trained: a mixture of LoRAs with its gates, and the head's rows of the task's classes. Remembered:
of every task how its tokens were shared out among the experts, the experts that it picked, and the
mean frozen feature of its inputs, which names the task at test. Written from summaries and from the
code that the authors' toolkit has. Differs from them: there, tasks are told apart by several
centres of k-means; picked are the experts with most of a task's tokens by the gate's shares, there
by counts of each token's two best, and in each module, there for all modules together. That code
moves the experts that only the task before picked as far as the text moves those that only the new
one picks: here it is as the text has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.expert_shares import with_shares
from lamina.adapters.kinds.lora_mixture import LoRAMixturePatch
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.backbones.overlay import Overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

BEFORE = "before"
"""The mixture as it was before the task, frozen."""
SHARES = "shares."


@dataclass
class CLMoE(Strategy):
    """Cross-entropy over the task's classes under the token's router; both answer."""

    picked: int = 2
    """K, experts of a module that a task picks."""
    momentum: float = 0.7
    """gamma, what an expert keeps of itself over a task; one that only the new task picks keeps 1 -
    gamma (0.7 in the public code)."""
    instance: float = 0.5
    """beta, what the token's own router counts at test beside the task's."""

    family = "adapter"
    paper = (
        "CL-MoE: Enhancing Multimodal Large Language Model with Dual Momentum Mixture-of-Experts "
        "for Continual Visual Question Answering"
    )
    year = 2025
    answers = ("classes", "tokens")
    adapters = ("lora_mixture",)
    routes = True
    from_second_task = ("momentum",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["picked"], share=["momentum", "instance"])

    def setup(self, model: AdaptedModel) -> None:
        """The mixture."""
        model.add()
        self.state.update(shares=[], picks=[], centres=[])

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Keep the experts as they are."""
        model.copy(MAIN, BEFORE)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Per module what each expert got of the task's tokens; the sum of the frozen features."""
        _, shares = with_shares(model, batch.inputs)
        sums = {SHARES + module: each.sum(dim=0) for module, each in shares.items()}
        features = model.frozen_features(batch.inputs)
        count = torch.tensor(float(len(batch)), device=features.device)
        return Summary({**sums, "features": features.sum(dim=0), "count": count})

    @torch.no_grad()
    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """G^T(t), the shares; theta <- lambda theta_before + (1 - lambda) theta, with lambda = 1 -
        gamma for an expert that this task picks and none before it did, else gamma."""
        assert review is not None
        sums = {
            name.removeprefix(SHARES): each
            for name, each in review.sums.items()
            if name.startswith(SHARES)
        }
        shares = {module: each / each.sum() for module, each in sums.items()}
        picks = {
            module: each.topk(min(self.picked, len(each))).indices
            for module, each in shares.items()
        }
        if task.index > 0:
            self._merge(model, picks)
        model.remove(BEFORE)
        self.state["shares"].append(shares)
        self.state["picks"].append(picks)
        self.state["centres"].append(review["features"] / review["count"])

    def _merge(self, model: AdaptedModel, picks: Mapping[str, Tensor]) -> None:
        before, now = model.adapters[BEFORE].tensors, model.adapters[MAIN].tensors
        for module, new in picks.items():
            past = torch.cat([each[module] for each in self.state["picks"]])
            number = len(self.state["shares"][0][module])
            kept = momenta(number, new, past, self.momentum)
            for name, dim in (("experts_A", 0), ("experts_B", 1)):
                key = f"{module}.{name}.weight"
                width = now[key].shape[dim] // number
                each = kept.repeat_interleave(width)
                now[key].lerp_(before[key], each[:, None] if dim == 0 else each)

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The task with the nearest mean feature."""
        centres = torch.stack(self.state["centres"])
        return torch.cdist(model.frozen_features(inputs), centres).argmin(dim=1)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits with g = beta G^I(x) + (1 - beta) G^T(t) of each row's task t."""
        known = len(self.state["shares"])
        if known == 0:
            return model(inputs).logits
        chosen = self.route(model, inputs)
        if task is not None and task.index < known:
            chosen = torch.full_like(chosen, task.index)
        return model.under(inputs, self.blended(model, chosen)).logits

    def blended(self, model: AdaptedModel, chosen: Tensor) -> Overlay:
        """The mixture under both routers, of tasks `chosen` int64 [N]."""
        patches: dict[Any, Sequence[Any]] = {}
        for site, (patch,) in model.overlay().patches.items():
            assert isinstance(patch, LoRAMixturePatch)
            of_tasks = torch.stack([each[site.write] for each in self.state["shares"]])
            own = of_tasks[chosen][:, None]
            patches[site] = [replace(patch, prior=own, prior_share=1 - self.instance)]
        return Overlay(patches=patches)


def momenta(number: int, new: Tensor, past: Tensor, momentum: float) -> Tensor:
    """lambda of each of a module's experts, [number]: what it keeps, of experts that the new task
    picks (`new`, their numbers) and earlier ones picked (`past`)."""
    kept = torch.full((number,), momentum, device=new.device)
    alone = new[~torch.isin(new, past)]
    kept[alone] = 1 - momentum
    return kept
