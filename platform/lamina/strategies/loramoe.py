"""LoRAMoE (Dou et al., 2024): experts in two halves, one for what must be kept and one for what is
new, by a constraint on how the gates share rows out among them.

Trained: a mixture of LoRAs with its gates, and the head. Remembered: the exemplars of the job's
memory. Differs from the paper, whose kinds of rows are world knowledge and other tasks of one
instruction set: here they are exemplars of earlier tasks and rows of the task, each with a half of
the experts. As in the authors' code the imbalance of a module is the squared coefficient of
variation (the paper divides by the mean alone), and only tokens that are no padding count; it is a
mean over modules. It is least where Z = I * Q is even, so experts of a row's own kind get the
smaller share, the reverse of what the paper says of it: a negative `leaning` does what it says.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.expert_shares import with_shares
from lamina.adapters.model import AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import InputError, only_where
from lamina.strategies.base import Strategy

TINY = 1e-10


@dataclass
class LoRAMoE(Strategy):
    """Cross-entropy on the batch and on exemplars, with the localized balancing constraint."""

    balance: float = 0.1
    """beta, the weight of the constraint (`blc_weight` in the authors' code)."""
    leaning: float = 0.1
    """delta in [-1, 1], how uneven the halves are to be for each kind of rows (`blc_alpha`); 0 only
    balances."""
    replay_size: int = 32
    """Exemplars that join each batch."""

    family = "replay"
    paper = (
        "LoRAMoE: Alleviating World Knowledge Forgetting in Large Language Models via MoE-Style "
        "Plugin"
    )
    year = 2024
    answers = ("classes", "tokens")
    adapters = ("lora_mixture",)
    needs_memory = True
    matters_when = only_where(leaning="balance")
    from_second_task = ("replay_size",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["balance", "replay_size"])
        if not -1 <= self.leaning <= 1:
            raise InputError(f"strategy.leaning: {self.leaning} is not in [-1, 1]")

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(f(x), y) + beta * mean over modules of the imbalance, over (x, y) in batch and
        memory draw alike."""
        exemplars = replay.draw(self.replay_size)
        joined = batch if exemplars is None else Batch.cat([batch, exemplars])
        is_kept = torch.arange(len(joined), device=model.backbone.device) >= len(batch)
        output, shares = with_shares(model, joined.inputs)
        loss = cross_entropy(output.logits, joined.labels)
        imbalances = [imbalance(each, is_kept, self.leaning) for each in shares.values()]
        imbalanced = torch.stack(imbalances).mean()
        metrics = {"imbalance": imbalanced.detach()}
        return StepOutput(loss + self.balance * imbalanced, metrics, rows=joined)


def imbalance(shares: Tensor, is_kept: Tensor, leaning: float) -> Tensor:
    """var(Z) / mean(Z)^2 over rows n and experts m of Z = I * Q (eq. 9 and 10): Q_nm is what expert
    m got of row n, [N, experts], and I_nm is 1 + delta where n and m are of one kind, else 1 -
    delta. The first half of the experts is for what is kept, `is_kept` bool [N]."""
    number = shares.shape[1]
    of_kept = torch.arange(number, device=shares.device) < number // 2
    alike = is_kept[:, None] == of_kept[None]
    z = shares * torch.where(alike, 1 + leaning, 1 - leaning)
    return z.var() / (z.mean().square() + TINY)
