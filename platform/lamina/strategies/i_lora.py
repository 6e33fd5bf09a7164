"""I-LoRA (Ren et al., 2024): a fast working adapter learns with replay, and a slow memory adapter
interpolates what it goes through.

Trained: the working adapter and the head. Remembered: the memory of both, an exponential moving
average that answers at test, and the exemplars of the job's memory. Differs from the paper: its
language model has no classifier, here the head is averaged too (a row from the first step on in
which its class has one); the embedding compared is the pooled feature (of the prompt, where answers
are tokens). As in the authors' code the working embedding is only pulled up, where it is below the
memory's. That code averages with 0.25, which forgets within two steps; the average here is slow, as
in the double-memory methods that the paper follows.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.model import HEAD, MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy

MEMORY = "memory"
MEMORY_HEAD = "memory_head"


@dataclass
class ILoRA(Strategy):
    """Cross-entropy on the batch and on exemplars, whose features are pulled up to those of the
    memory."""

    replay_size: int = 32
    """Exemplars that join each batch."""
    consistency: float = 1.0
    """gamma, the weight of the distance between the two embeddings."""
    decay: float = 0.95
    """lambda, what the memory keeps of itself in a step (0.25 in the authors' code)."""

    family = "lora"
    paper = "Analyzing and Reducing Catastrophic Forgetting in Parameter Efficient Tuning"
    year = 2024
    answers = ("classes", "tokens")
    matters_when = only_where(consistency="replay_size")
    scenarios = (*Strategy.scenarios, "task_free")
    needs_memory = True
    from_second_task = ("replay_size", "consistency")

    def __post_init__(self) -> None:
        check_fields(
            "strategy", self, not_negative=["replay_size", "consistency"], share_below_1=["decay"]
        )

    def setup(self, model: AdaptedModel) -> None:
        """The working adapter, and the memory as its copy."""
        model.add()
        for working, memory in self._pairs(model):
            model.copy(working, memory)
        self.state["num_steps"] = 0

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = (CE(batch) + CE(exemplars)) / 2 + gamma mean max(h_memory - h_working, 0)^2."""
        loss = cross_entropy(model(batch.inputs).logits, batch.labels)
        exemplars = replay.draw(self.replay_size)
        if exemplars is None:
            return StepOutput(loss)
        working = model(exemplars.inputs)
        with torch.no_grad():
            overlay = model.overlay(self._memory_adapters(model))
            remembered = model.backbone(exemplars.inputs, overlay).features
        below = (remembered - working.features).relu().square().mean()
        below = below * replay.balance(len(exemplars), batch)
        replayed = cross_entropy(working.logits, exemplars.labels)
        replayed = replayed * replay.balance(exemplars.num_terms(), batch)
        return StepOutput(
            (loss + replayed) / 2 + self.consistency * below, {"consistency": below.detach()}
        )

    @torch.no_grad()
    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """theta_m <- a theta_m + (1 - a) theta_w with a = min(1 - 1 / (step + 1), lambda)."""
        self.state["num_steps"] += 1
        decay = min(1 - 1 / (self.state["num_steps"] + 1), self.decay)
        for working, memory in self._pairs(model):
            slow = model.adapters[memory].tensors
            for name, fast in model.adapters[working].tensors.items():
                known = len(slow[name])
                moved = decay * slow[name] + (1 - decay) * fast[:known]
                slow[name] = torch.cat([moved, fast[known:]])

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits of the memory."""
        adapters = self._memory_adapters(model)
        return model(inputs, adapters=adapters, head=MEMORY_HEAD).logits

    def _memory_adapters(self, model: AdaptedModel) -> list[str]:
        """What the memory lays over the backbone: nothing in a job without an adapter."""
        return [memory for _, memory in self._pairs(model) if memory == MEMORY]

    def _pairs(self, model: AdaptedModel) -> list[tuple[str, str]]:
        """What works and what remembers it; a job without an adapter has a head only."""
        pairs = [(MAIN, MEMORY), (HEAD, MEMORY_HEAD)]
        return [pair for pair in pairs if pair[0] in model.adapters]
