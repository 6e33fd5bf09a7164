"""SAFE (Zhao et al., 2024): a slow learner is tuned on the first task, held by the pre-trained
features, and then frozen; a fast one follows it through every later task.

Trained: on the first task the job's adapter (slow), later a copy of it (fast), and a cosine head.
Remembered: RanPAC's sums of randomly projected features, for either learner. Unlike the public
code, where both learners add to one Gram matrix, the better of slow and merged prediction is taken
by test accuracy, the alignment is a sum over 48 rows (here 50 times a mean), the head learns its
scale (here 10, its start). Transfer, of unit rows, is weighted as there for ImageNet-A, not CIFAR;
of several data-parallel workers each correlates the features of its own rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import HEAD, MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.ridge import best_ridge, plus_columns, ridge_sums, solution_of
from lamina.strategies.base import Strategy

FAST, SLOW_HEAD = "fast", "slow_head"
SCALE = 10.0


@dataclass
class SAFE(Strategy):
    """Transfer to the slow learner, alignment and cross-classification of the fast one."""

    projection: int = 10_000
    """M, width of the random projection."""
    diagonal: float = 0.01
    """lambda_diag, the weight of each feature's correlation with its pre-trained self."""
    redundancy: float = 10.0
    """lambda_rdn, the weight of features' correlations with other pre-trained ones."""
    alignment: float = 50.0
    """lambda_cos, the weight of the fast features' angle to the slow ones."""
    cross: float = 1.0
    """lambda_cc, the weight of classifying each learner's features by the other's head."""
    sharpness: float = 1.0
    """gamma, how much louder the surer learner is; 0 is the mean of both."""

    family = "adapter"
    paper = (
        "SAFE: Slow and Fast Parameter-Efficient Tuning "
        "for Continual Learning with Pre-Trained Models"
    )
    year = 2024
    classes_only = "it solves for the head of classes, by ridge regression"
    grows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["diagonal", "redundancy", "alignment", "cross", "sharpness"],
            positive=["projection"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The slow learner, and the random projection W ~ N(0, 1) [dim, M]."""
        model.add()
        generator = generator_of(model.seed, "safe")
        weight = torch.randn(model.backbone.dim, self.projection, generator=generator)
        self.state.update(projection=weight.to(model.backbone.device), sums={})

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """First task: L = CE + lambda_diag sum_i (M_ii - 1)^2 + lambda_rdn sum_i!=j M_ij^2. Later:
        L = CE + lambda_cos (1 - cos(f_fast, f_slow)) + lambda_cc L_cc."""
        features = model(batch.inputs, self.learners(model)["fast"]).features
        head = model.adapters[HEAD].tensors["weight"]
        loss = cross_entropy(cosine_logits(features, head), batch.labels)
        if SLOW_HEAD not in model.adapters:
            diagonal, rest = transfer(features, model.frozen_features(batch.inputs))
            loss = loss + self.diagonal * diagonal + self.redundancy * rest
            return StepOutput(loss, {"transfer": diagonal.detach()})
        with torch.no_grad():
            slow = model(batch.inputs).features
        known = self.state["num_known"]
        slow_head = model.adapters[SLOW_HEAD].tensors["weight"]
        slow_head = F.pad(slow_head, (0, 0, 0, len(head) - len(slow_head)))
        labels = torch.cat([torch.arange(known, device=head.device), batch.labels])
        by_fast = cosine_logits(torch.cat([slow_head[:known], slow]), head)
        by_slow = cosine_logits(torch.cat([head[:known], features]), slow_head)
        crossed = cross_entropy(by_fast, labels) + cross_entropy(by_slow, labels)
        apart = 1 - F.cosine_similarity(features, slow).mean()
        loss = loss + self.alignment * apart + self.cross * crossed
        return StepOutput(loss, {"apart": apart.detach(), "crossed": crossed.detach()})

    def learners(self, model: AdaptedModel) -> dict[str, list[str]]:
        """The adapters of either learner; they are one until the first task has ended."""
        return {"slow": model.active, "fast": [FAST] if FAST in model.adapters else model.active}

    def projected(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """h = ReLU(f(x) W), [N, M], of either learner."""
        return {
            name: torch.relu(model(inputs, adapters).features @ self.state["projection"])
            for name, adapters in self.learners(model).items()
        }

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """RanPAC's sums of either learner."""
        sums = {}
        for name, projected in self.projected(model, batch.inputs).items():
            own = ridge_sums(projected, batch.labels, batch.ids, model.num_classes())
            sums.update({f"{name}.{key}": value for key, value in own.items()})
        return Summary(sums)

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Solve the ridge regressions; after the first task, freeze the slow learner and let the
        fast one start from it."""
        assert review is not None
        sums = self.state["sums"] = plus_columns(review.sums, self.state["sums"])
        for name in ("slow", "fast"):
            own = {key.split(".")[1]: sums[key] for key in sums if key.startswith(name)}
            self.state[name] = solution_of(own, best_ridge(own))
        self.state["num_known"] = model.num_classes()
        if task.index == 0:
            model.copy(HEAD, SLOW_HEAD)
        if task.index == 0 and MAIN in model.adapters:
            model.copy(MAIN, FAST)
            model.freeze(MAIN)
            model.unfreeze(FAST)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """sum_l w_l h_l W_l over the learners with w = softmax(-gamma H), H the entropy of each's
        prediction."""
        projected = self.projected(model, inputs)
        logits = torch.stack([h @ self.state[name] for name, h in projected.items()], dim=1)
        entropy = -(logits.softmax(dim=2) * logits.log_softmax(dim=2)).sum(dim=2)
        weight = torch.softmax(-self.sharpness * entropy, dim=1)
        return (weight[:, :, None] * logits).sum(dim=1)


def cosine_logits(features: Tensor, head: Tensor) -> Tensor:
    """SCALE cos(f, w_c), [N, C]; 0 for a row of zeros."""
    return SCALE * F.normalize(features, dim=1) @ F.normalize(head, dim=1).T


def transfer(features: Tensor, frozen: Tensor) -> tuple[Tensor, Tensor]:
    """sum_i (M_ii - 1)^2 and sum_i!=j M_ij^2 of the correlation M [dim, dim] of two learners'
    features of unit length."""
    correlation = F.normalize(features, dim=1).T @ F.normalize(frozen, dim=1) / len(features)
    diagonal = correlation.diagonal()
    rest = correlation.square().sum() - diagonal.square().sum()
    return (diagonal - 1).square().sum(), rest
