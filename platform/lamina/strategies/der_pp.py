"""DER++ (Buzzega et al., 2020): dark experience replay, exemplars are held to the logits they once
had and to their labels.

Trained: the job's adapter and the head. Remembered: the exemplars of the job's memory, each with
its logits at the time. The squared error is a mean over logits, as in the authors' code and as its
weights alpha suppose; the paper writes a squared norm. The head grows, so an exemplar's logits of
classes that came later count as zero, as those of the authors' full head are at first. Where
answers are tokens the head is frozen: what it reads is kept, [A, dim] in place of [A, vocabulary],
and the error is exact by W^T W of its weights W. Differs from the paper: where the stream has
tasks, rows enter the memory, and are noted, when their task ends, which measured better than as
they pass (0.915 against 0.819 on digits; `memory: {entry: as_they_pass}` is the paper's way, and
what a task-free stream does).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput
from lamina.losses import answered, cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy


@dataclass
class DERpp(Strategy):
    """Cross-entropy on the batch, squared error to the logits of one draw, cross-entropy on
    another."""

    alpha: float = 0.3
    """Weight of the squared error to the stored logits; with beta 0 this is DER."""
    beta: float = 0.5
    """Weight of the exemplars' cross-entropy."""
    replay_size: int = 32
    """Exemplars of each of the two draws."""

    family = "replay"
    paper = "Dark Experience for General Continual Learning: a Strong, Simple Baseline"
    year = 2020
    answers = ("classes", "tokens")
    matters_when = only_where(alpha="replay_size", beta="replay_size")
    scenarios = (*Strategy.scenarios, "task_free")
    needs_memory = True
    from_second_task = ("alpha", "beta", "replay_size")

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["alpha", "beta", "replay_size"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y) + alpha MSE(f(x'), z') + beta CE(f(x''), y''), two independent draws."""
        loss = cross_entropy(model(batch.inputs).logits, batch.labels)
        dark = replay.draw(self.replay_size, "logits")
        labelled = replay.draw(self.replay_size, "labels")
        if dark is None or labelled is None:
            return StepOutput(loss)
        error = squared_error(model, dark) * replay.balance(dark.num_terms(), batch)
        replayed = cross_entropy(model(labelled.inputs).logits, labelled.labels)
        replayed = replayed * replay.balance(labelled.num_terms(), batch)
        return StepOutput(
            loss + self.alpha * error + self.beta * replayed,
            {"logits_error": error.detach(), "replayed": replayed.detach()},
        )

    def annotate(self, model: AdaptedModel, batch: Batch) -> Mapping[str, Tensor]:
        """The logits z of a new exemplar, or what the frozen head makes them from."""
        hidden = model.backbone(batch.inputs, model.overlay())
        if hidden.answers is None:
            return {"logits": model.logits(hidden.features)}
        return {"hidden": hidden.answers.flatten(1)}


def squared_error(model: AdaptedModel, exemplars: Batch) -> Tensor:
    """Mean of (f(x') - z')^2 over logits; where answers are tokens, over those of the tokens that
    count."""
    hidden = model.backbone(exemplars.inputs, model.overlay())
    if hidden.answers is None:
        return logits_error(model.logits(hidden.features), exemplars.extras["logits"])
    once = exemplars.extras["hidden"].unflatten(1, (-1, model.backbone.dim))
    once = once[:, : hidden.answers.shape[1]]
    now, then = (answered(each, exemplars.labels) for each in (hidden.answers, once))
    head = model.backbone.language_head
    return head.squared_distances(now, then).mean() / head.num_tokens


def logits_error(logits: Tensor, stored: Tensor) -> Tensor:
    """Mean of (logits - stored)^2; `stored` [n, c] may be narrower than `logits` [n, C], and what
    is missing there, or NaN, counts as zero."""
    missing = logits.shape[1] - stored.shape[1]
    return F.mse_loss(logits, F.pad(stored, (0, missing)).nan_to_num(nan=0.0))
