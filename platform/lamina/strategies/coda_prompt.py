"""CODA-Prompt (Smith et al., 2023): prompts are sums of components, weighted by how much an
attended query resembles each component's key.

Trained: the current task's components P, keys K and attentions A, of every prompted layer, and the
head. Remembered: those of earlier tasks, frozen and still part of every sum. New ones start
orthonormal to the old (Gram-Schmidt, as in the authors' code); where the old fill the space, only
among themselves. Differs from the authors' code: components come per task, so the number of tasks
need not be known; lambda is the paper's (their scripts set 0). As there, the orthogonality loss is
the mean square of B B^T - I, and half of a prompt's tokens are keys, half values.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.adapters.prompting import layers_in, orthonormal, prefix_overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import NO_ADAPTER, Strategy

PAST = "past_components"
CURRENT = "components"


@dataclass
class CodaPrompt(Strategy):
    """Cross-entropy over the task's classes; keys and prompts learn from it end to end."""

    components: int = 10
    """Components that a task adds to every prompted layer (M / T: 100 over 10 tasks)."""
    length: int = 8
    """L_p, tokens of a component; even."""
    layers: tuple[int, ...] | None = None
    """Prompted layers. Default: the first five twelfths (0 to 4 of twelve)."""
    orthogonality: float = 0.1
    """lambda, the weight of the orthogonality of components, keys and attentions."""

    family = "prompt"
    paper = (
        "CODA-Prompt: COntinual Decomposed Attention-based Prompting for Rehearsal-Free "
        "Continual Learning"
    )
    year = 2023
    answers = ("classes", "tokens")
    adapters = (NO_ADAPTER,)

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["orthogonality"],
            positive=["components"],
            even=["length"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own. Raises InputError for too many components."""
        self.layers_of(model)
        if self.components > model.backbone.dim:
            raise InputError(
                f"strategy.components: {self.components} cannot be orthogonal in "
                f"{model.backbone.dim} dimensions"
            )

    def layers_of(self, model: AdaptedModel) -> list[int]:
        """The prompted layers."""
        return layers_in(model.backbone, self.layers, range(0, 5), "layers")

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze the components so far, and add new ones orthonormal to them."""
        if CURRENT in model.adapters:
            model.add_tensors(PAST, self.all_components(model))
            model.freeze(PAST)
        generator = generator_of(model.seed, "adapter", CURRENT, task.index)
        depth = len(self.layers_of(model))
        dim = model.backbone.dim
        fresh = {}
        for name, width in (("P", self.length * dim), ("K", dim), ("A", dim)):
            past = torch.zeros(depth, 0, width)
            if PAST in model.adapters:
                past = model.adapters[PAST].tensors[name].flatten(2).cpu()
            drawn = torch.randn(depth, self.components, width, generator=generator)
            fresh[name] = torch.stack(
                [orthonormal(*pair) for pair in zip(drawn, past, strict=True)]
            )
        fresh["P"] = fresh["P"].unflatten(2, (self.length, dim))
        model.add_tensors(CURRENT, fresh)

    def all_components(self, model: AdaptedModel) -> dict[str, Tensor]:
        """P [layers, M, length, dim], K and A [layers, M, dim], those of earlier tasks first."""
        groups = [
            model.adapters[name].tensors for name in (PAST, CURRENT) if name in model.adapters
        ]
        return {name: torch.cat([each[name] for each in groups], dim=1) for name in ("P", "K", "A")}

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda * sum of L_ortho(P), L_ortho(K), L_ortho(A) over the
        layers."""
        assert batch.task is not None
        logits = self.predict(model, batch.inputs, None)
        loss = cross_entropy(logits, batch.labels, classes=batch.task.classes)
        components = self.all_components(model).values()
        overlap = torch.stack([orthogonality_loss(each.flatten(2)) for each in components]).sum()
        return StepOutput(loss + self.orthogonality * overlap, {"overlap": overlap.detach()})

    def prompts(self, model: AdaptedModel, query: Tensor) -> Tensor:
        """p = sum_m alpha_m P_m with alpha_m = cos(q * A_m, K_m), [N, layers, length, dim]."""
        components = self.all_components(model)
        attended = torch.einsum(
            "nd,lmd->nlm", query, components["A"] * F.normalize(components["K"], dim=2)
        )
        size = torch.einsum("nd,lmd->nlm", query.square(), components["A"].square()).sqrt()
        return torch.einsum("nlm,lmpd->nlpd", attended / size.clamp_min(1e-12), components["P"])

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under each input's own sum of all components so far."""
        prompts = self.prompts(model, model.frozen_features(inputs))
        halves = prompts.unflatten(2, (2, self.length // 2))
        overlay = prefix_overlay(halves, self.layers_of(model))
        return model.under(inputs, overlay).logits


def orthogonality_loss(rows: Tensor) -> Tensor:
    """Mean square of B B^T - I for rows B of each layer, [layers, m, d], summed over layers."""
    gram = rows @ rows.transpose(1, 2)
    return (gram - torch.eye(rows.shape[1], device=rows.device)).square().mean(dim=(1, 2)).sum()
