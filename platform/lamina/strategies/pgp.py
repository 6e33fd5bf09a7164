"""PGP (Qiao et al., 2024): L2P whose prompts and keys only move where earlier inputs do not look.

Trained: a pool of prompts with keys, as in L2P (Wang et al., 2022), and the head, which reads the
prompts' output tokens. Remembered: two subspaces, that of the sums x + p of an input token and a
token of a prompt that the input picked, as the first attention reads them, and that of the queries.
From the second task on the gradients of prompts and keys lose their part in these, so that x dp^T =
p dp^T = 0 and what earlier inputs attend to stays (under SGD; Adam rescales each number). As in the
authors' code, energies are those of the Gram matrix of a task's leading components: its squared
eigenvalues, which are fourth powers of singular values. Differs from that code: all sums of tokens,
in the space of features (there, leading components over 768 images are added to those over 768
features), and not centred, since a key is compared with queries that are not. Each row picks by
itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.model import AdaptedModel
from lamina.adapters.prompt_pool import (
    POOL,
    add_pool,
    check_pool,
    pick,
    prompted_logits,
    prompts_of,
)
from lamina.backbones.overlay import Overlay, Site
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.memory.subspace import Subspace, recalled
from lamina.strategies.base import NO_ADAPTER, Strategy

COMPONENTS = {"prompts": 9, "keys": 5}
"""Leading directions of a task that may be taken at most (the authors' code)."""


@dataclass
class PGP(Strategy):
    """L2P's loss; the gradients of its pool are projected."""

    pool_size: int = 10
    """M, prompts in the pool."""
    length: int = 5
    """L_p, tokens of a prompt."""
    top_k: int = 5
    """N, prompts that an input picks."""
    pull: float = 0.5
    """lambda, the weight of the keys' similarity."""
    prompts: float = 0.5
    """epsilon of the prompts: the share of the sums' energy that they may not move in; 0 is L2P."""
    keys: float = 0.97
    """epsilon of the keys: the same for the queries' energy."""

    family = "prompt"
    paper = "Prompt Gradient Projection for Continual Learning"
    year = 2024
    answers = ("classes", "tokens")
    adapters = (NO_ADAPTER,)

    def __post_init__(self) -> None:
        check_pool(self.pool_size, self.length, self.top_k)
        check_fields("strategy", self, share=["prompts", "keys"])

    def setup(self, model: AdaptedModel) -> None:
        """The pool."""
        add_pool(model, self.pool_size, self.length)
        self.state["taken"] = {}

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) - lambda * mean of the summed cosines of the picked keys."""
        assert batch.task is not None
        picked, similarity = pick(model, model.frozen_features(batch.inputs), self.top_k)
        logits = self.logits(model, batch.inputs, picked)
        loss = cross_entropy(logits, batch.labels, classes=batch.task.classes)
        return StepOutput(loss - self.pull * similarity.sum(dim=1).mean())

    def logits(self, model: AdaptedModel, inputs: Mapping[str, Tensor], picked: Tensor) -> Tensor:
        """Logits with the picked prompts [N, top_k] before each input."""
        return prompted_logits(model, inputs, picked)

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """g - g V V^T for prompts and keys, V a basis of what is taken."""
        projected = dict(gradients)
        for name, taken in self.state["taken"].items():
            gradient = gradients[f"{POOL}.{name}"]
            outside = Subspace(**taken).outside(gradient.flatten(0, -2).T).T
            projected[f"{POOL}.{name}"] = outside.reshape(gradient.shape)
        return projected

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Gram matrices [dim, dim] of the sums x + p and of the queries."""
        query = model.frozen_features(batch.inputs)
        picked, _ = pick(model, query, self.top_k)
        tokens = self.tokens(model, batch.inputs, picked)
        start = 0 if model.backbone.modality == "text" else 1
        end = start + self.top_k * self.length
        own = torch.cat([tokens[:, :start], tokens[:, end:]], dim=1)
        mask = batch.inputs.get("attention_mask", own.new_ones(own.shape[:2]))
        gram = gram_of_sums(own, tokens[:, start:end], mask.to(own.dtype))
        return Summary({"prompts": gram, "keys": query.T @ query})

    def tokens(self, model: AdaptedModel, inputs: Mapping[str, Tensor], picked: Tensor) -> Tensor:
        """What the first attention reads of inputs and their picked prompts, [N, S, dim]."""
        seen: list[Tensor] = []

        def read(x: Tensor, y: Tensor) -> Tensor:
            seen.append(x.float())
            return y

        first = model.backbone.architecture.sites(None, (0,))[0]
        reading = Overlay(patches={Site(first.read, first.write): [read]})
        model.backbone(inputs, Overlay(prompts=[prompts_of(model, picked)]) | reading)
        return seen[0]

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add the fewest of the leading directions that hold a share epsilon of their energy."""
        assert review is not None
        for name, gram in review.sums.items():
            values, vectors = torch.linalg.eigh(gram.double())
            leading = (vectors * values.clamp_min(0))[:, -COMPONENTS[name] :]
            taken = recalled(self.state["taken"], name, gram)
            self.state["taken"][name] = taken.grown(leading, getattr(self, name)).state()

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under the prompts that each input picks."""
        picked, _ = pick(model, model.frozen_features(inputs), self.top_k)
        return self.logits(model, inputs, picked)


def gram_of_sums(tokens: Tensor, prompts: Tensor, mask: Tensor) -> Tensor:
    """sum over n, i, j of s s^T with s = x_ni + p_nj, [d, d], of tokens [N, S, d] where the mask
    [N, S] is 1 and prompts [N, L, d]."""
    own = tokens * mask[:, :, None]
    crossed = torch.einsum("nd,ne->de", own.sum(dim=1), prompts.sum(dim=1))
    of_prompts = torch.einsum("n,nld,nle->de", mask.sum(dim=1), prompts, prompts)
    of_tokens = torch.einsum("nsd,nse->de", own, own)
    return prompts.shape[1] * of_tokens + of_prompts + crossed + crossed.T
