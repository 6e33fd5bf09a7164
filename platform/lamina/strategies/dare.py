"""DARE (Yu et al., 2024): every task is learned from the same start; most of what it changed is
dropped at random, the rest scaled up and summed over tasks.

Trained: an adapter of the job's kind, anew from the same first values with each task, and the
head's rows of the task's classes. Remembered: the start and the merged adapter. A LoRA's entries
are dropped from its products B A, so that with nothing dropped it is task arithmetic; the merge is
no longer of low rank, and is kept in full. Differs from the paper: 0.9 and more is dropped there
from what full fine-tuning changed, which is redundant; a product of rank 8 is not, hence the lower
default. Other adapters drop entries of their tensors. Of the mergers that the paper puts it before,
this is the sum.
"""

from dataclasses import dataclass

import torch

from lamina.adapters import kind_names
from lamina.adapters.kinds.lora import LoRA
from lamina.adapters.merging import added, as_lora, dare, products
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.adapters.task_vectors import (
    MERGED,
    ORIGIN,
    answer_with,
    last_vector,
    set_origin,
    start_anew,
)
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class DARE(Strategy):
    """theta = theta_0 + lambda sum_t DARE(theta_t - theta_0)."""

    drop_rate: float = 0.5
    """p, the probability that an entry of a task's vector is dropped (the paper: 0.9 of what full
    fine-tuning changed)."""
    weight: float = 0.4
    """lambda, what each task's vector counts in the sum."""

    family = "merging"
    paper = "Language Models are Super Mario: Absorbing Abilities from Homologous Models"
    year = 2024
    answers = ("classes", "tokens")
    adapters = tuple(kind_names())

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["weight"], share_below_1=["drop_rate"])

    def setup(self, model: AdaptedModel) -> None:
        """theta_0, from which every task starts."""
        set_origin(model)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """theta_t starts at theta_0."""
        start_anew(model)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add lambda DARE(tau_t) to the sum, and answer with it."""
        trained, origin = model.adapters[MAIN], model.adapters[ORIGIN]
        generator = generator_of(model.seed, "dare", task.index)
        if isinstance(trained.kind, LoRA):
            # theta_0 has B = 0: the product is all that changed.
            vector = dare(products(trained.tensors), self.drop_rate, generator)
            nothing = {module: torch.zeros_like(update) for module, update in vector.items()}
            past = products(model.adapters[MERGED].tensors) if MERGED in model.adapters else nothing
            merged = as_lora(added(past, vector, self.weight))
        else:
            vector = dare(last_vector(model), self.drop_rate, generator)
            so_far = model.adapters.get(MERGED, origin).tensors
            merged = added(so_far, vector, self.weight)
        answer_with(model, trained.kind, merged)
