"""VQ-Prompt (Jiao et al., 2024): an input's mixture of prompts is replaced by the nearest prompt of
the pool, and the choice still learns from the task's loss.

Trained: in each prompted layer a pool of prompts and keys, shared by all tasks, and the head.
Remembered: a Gaussian per class of its features when it was learned; on samples of all classes the
head is refitted after each task but the first. The query is the feature of the frozen backbone, and
is not normalised, as in the authors' code. Differs from it: there, ten diagonal Gaussians per class
by k-means and AdamW; prompts learn five times as fast as the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.alignment import refit_head
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.prompting import layers_in, prefix_overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.gaussian import Gaussians, moments
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import NO_ADAPTER, Strategy

POOL = "pool"


@dataclass
class VQPrompt(Strategy):
    """Cross-entropy over the task's classes, and mixture and prompt drawn to each other."""

    pool_size: int = 10
    """Prompts of a layer."""
    length: int = 8
    """Tokens of a prompt, half keys and half values."""
    layers: tuple[int, ...] | None = None
    """Prompted layers. Default: the first five twelfths (0 to 4 of twelve)."""
    temperature: float = 1.0
    """tau, the softening of the mixture (5 on CUB-200)."""
    quantisation: float = 0.4
    """Weight of the mixture's distance from the chosen prompt."""
    commitment: float = 0.1
    """Weight of the chosen prompt's distance from the mixture."""
    alignment_epochs: int = 10
    """Passes of the refit of the head, over 120 Gaussian features of each class; 0 leaves it."""
    alignment_rate: float = 0.01
    """Learning rate of the refit, by SGD with a cosine."""

    family = "prompt"
    paper = "Vector Quantization Prompting for Continual Learning"
    year = 2024
    classes_only = "its head is refitted on Gaussians of classes"
    matters_when = only_where(alignment_rate="alignment_epochs")
    adapters = (NO_ADAPTER,)

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["quantisation", "commitment", "alignment_epochs"],
            positive=["pool_size", "temperature"],
            even=["length"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """Keys [layers, M, dim] and prompts [layers, M, length, dim] from U(0, 1)."""
        shape = (len(self.layers_of(model)), self.pool_size, self.length, model.backbone.dim)
        generator = generator_of(model.seed, "adapter", POOL)
        prompts = torch.rand(shape, generator=generator)
        keys = torch.rand(shape[0], shape[1], shape[3], generator=generator)
        model.add_tensors(POOL, {"prompts": prompts, "keys": keys})

    def layers_of(self, model: AdaptedModel) -> list[int]:
        """The prompted layers."""
        return layers_in(model.backbone, self.layers, range(0, 5), "layers")

    def mixtures(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """p_a = sum_m alpha_m P_m with alpha = softmax(q . k / (|k| tau)), [N, layers, length,
        dim]."""
        pool = model.adapters[POOL].tensors
        keys = F.normalize(pool["keys"], dim=2)
        scores = torch.einsum("nd,lmd->nlm", model.frozen_features(inputs), keys)
        weights = (scores / self.temperature).softmax(dim=2)
        return torch.einsum("nlm,lmpd->nlpd", weights, pool["prompts"])

    def nearest(self, model: AdaptedModel, mixtures: Tensor) -> Tensor:
        """p_q, the prompt of the pool that is nearest to each mixture, of the same shape."""
        prompts = model.adapters[POOL].tensors["prompts"]
        with torch.no_grad():
            apart = mixtures[:, :, None] - prompts
            index = apart.square().sum(dim=(3, 4)).argmin(dim=2)
        return torch.stack([own[pick] for own, pick in zip(prompts, index.T, strict=True)], dim=1)

    def features(
        self, model: AdaptedModel, prompts: Tensor, inputs: Mapping[str, Tensor]
    ) -> Tensor:
        """Features [N, dim] under each row's own prompts [N, layers, length, dim]."""
        halves = prompts.unflatten(2, (2, self.length // 2))
        return model.backbone(inputs, prefix_overlay(halves, self.layers_of(model))).features

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + sum over layers of lambda_q MSE(p_a, sg p_q) + lambda_c MSE(p_q,
        sg p_a). The gradient of CE with respect to p_q goes to p_a (straight through)."""
        assert batch.task is not None
        mixtures = self.mixtures(model, batch.inputs)
        nearest = self.nearest(model, mixtures)
        prompts = mixtures + (nearest - mixtures).detach()
        logits = model.logits(self.features(model, prompts, batch.inputs))
        loss = cross_entropy(logits, batch.labels, classes=batch.task.classes)
        depth = mixtures.shape[1]
        quantisation = depth * F.mse_loss(mixtures, nearest.detach())
        commitment = depth * F.mse_loss(nearest, mixtures.detach())
        loss = loss + self.quantisation * quantisation + self.commitment * commitment
        return StepOutput(loss, {"quantisation": quantisation.detach()})

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Moments of the features, per class."""
        prompts = self.nearest(model, self.mixtures(model, batch.inputs))
        features = self.features(model, prompts, batch.inputs)
        return Summary(moments(features, batch.labels, model.num_classes()))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Remember the task's classes, and refit the head on samples of all."""
        assert review is not None
        gaussians = Gaussians.of(review.sums)
        if task.index > 0:
            gaussians = Gaussians(**self.state["gaussians"]).pooled(gaussians)
        self.state["gaussians"] = dict(vars(gaussians))
        if task.index > 0:
            generator = generator_of(model.seed, "vq_prompt", task.index)
            epochs = self.alignment_epochs
            rate = self.alignment_rate
            refit_head(model, HEAD, gaussians, generator, epochs, rate)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under each input's quantised prompts."""
        prompts = self.nearest(model, self.mixtures(model, inputs))
        return model.logits(self.features(model, prompts, inputs))
