"""SD-LoRA (Wu et al., 2025): directions of earlier LoRAs stay, how far the model goes along each is
learned on.

Trained: the current task's LoRA, the magnitudes of all tasks' LoRAs, and the head. Remembered: the
directions of earlier LoRAs, frozen, their ranks stacked; one model answers at test, whatever the
task. Differs from the public code: when a task ends, its LoRA's norm moves into its magnitude, and
magnitudes go on from where they were (there, the next task starts with every magnitude at 0.8 on
directions of norm one, which is another model than the one that was learned); a module has its own
magnitudes (there, all share one per task); the model that is evaluated is the one that is trained
(there, the evaluation module drops all but the last LoRA). The variants that lower the rank (RR) or
absorb similar directions (KD) are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.kinds.lora import modules_of, scaled
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import PAST, current, lora_of, succeed
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

MAGNITUDES = "magnitudes"


@dataclass
class SDLoRA(Strategy):
    """Cross-entropy over the task's classes, of the new LoRA and of all magnitudes."""

    magnitude: float = 0.8
    """alpha_t, with which a task's LoRA starts."""

    family = "lora"
    paper = "SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning"
    year = 2025
    answers = ("classes", "tokens")
    adapters = ("lora",)
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, positive=["magnitude"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Turn the last task's LoRA into a direction and a magnitude, and attach a new one."""
        magnitudes: dict[str, Tensor] = {}
        if model.active:
            last = current(model)
            for module in modules_of(last.tensors):
                magnitudes[module] = model.adapters[MAGNITUDES].tensors[module].detach().clone()
                for factor in ("lora_A", "lora_B"):
                    tensor = last.tensors[f"{module}.{factor}.weight"].detach()
                    norm = tensor.norm().clamp_min(torch.finfo(tensor.dtype).tiny)
                    last.tensors[f"{module}.{factor}.weight"] = tensor / norm
                    magnitudes[module][-1] *= norm
        start = torch.tensor([self.magnitude], device=model.backbone.device)
        new = succeed(model, task.index)
        model.add_tensors(
            MAGNITUDES,
            {
                module: torch.cat([magnitudes[module], start]) if magnitudes else start.clone()
                for module in modules_of(new.tensors)
            },
        )

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs, parameters=self.weighted(model)).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def weighted(self, model: AdaptedModel) -> dict[str, Tensor]:
        """B of every LoRA by its magnitude, so that a module's update is
        sum_{i<t} alpha_i B_i A_i / (||B_i|| ||A_i||) + alpha_t B_t A_t."""
        alphas = model.adapters[MAGNITUDES].tensors
        new = current(model).tensors
        last = {module: alpha[-1] for module, alpha in alphas.items()}
        weighted = scaled(new, last, f"{model.active[-1]}.")
        if PAST in model.adapters:
            rank = lora_of(model).rank
            columns = {name: alpha[:-1].repeat_interleave(rank) for name, alpha in alphas.items()}
            weighted |= scaled(model.adapters[PAST].tensors, columns, f"{PAST}.")
        return weighted

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under all scaled LoRAs."""
        return model(inputs, parameters=self.weighted(model)).logits
