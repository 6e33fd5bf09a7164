"""GPM (Saha et al., 2021): gradient projection memory, weights move only across the directions in
which earlier tasks' inputs lie.

Trained: the job's adapter and the head. Remembered: per weight matrix of the adapter a basis of the
inputs it read in earlier tasks. For a LoRA these are A's inputs x and B's inputs A x: A is left to
move where old inputs do not reach, and B, whose inputs have as few dimensions as the rank, is soon
held; likewise W_down and W_up of a bottleneck, whose biases stay after the first task. Prompts and
prefixes read no input, so they have no such subspace. Differs from the paper: the singular vectors
come from sums of x x^T over all rows instead of a sample of them; cross-entropy sees the task's own
classes only, as the paper's heads do. Old outputs stay to within the threshold under plain SGD
(`training.optimizer: sgd`, no weight decay); what scales elements, as Adam does, leaves the
subspace again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.kinds.bottleneck import Bottleneck
from lamina.adapters.kinds.lora import modules_of
from lamina.adapters.model import MAIN, AdaptedModel
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy


@dataclass
class GPM(Strategy):
    """Cross-entropy over the task's classes; gradients lose their part along stored bases."""

    threshold: float = 0.97
    """epsilon_th, the share of the squared length of a task's inputs that its basis must hold."""
    growth: float = 0.003
    """What the threshold grows with each task."""

    family = "regularisation"
    paper = "Gradient Projection Memory for Continual Learning"
    year = 2021
    answers = ("classes", "tokens")
    adapters = ("lora", "bottleneck")

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["growth"], share=["threshold"])

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = model(batch.inputs).logits
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """dW <- dW - dW M M^T (eq. 6) where W has a basis M; no step for the adapter's biases."""
        bases = self.state.get("bases")
        if bases is None:
            return gradients
        adjusted = {}
        for name, gradient in gradients.items():
            group, _, tensor = name.partition(".")
            if group == MAIN and tensor in bases:
                adjusted[name] = gradient - (gradient @ bases[tensor]) @ bases[tensor].T
            elif group == MAIN:
                adjusted[name] = torch.zeros_like(gradient)
            else:
                adjusted[name] = gradient
        return adjusted

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Per weight matrix [d_out, d_in] the sum of x x^T over the inputs x it reads."""
        read = inputs_read(model, batch.inputs)
        return Summary({name: x.T @ x for name, x in read.items()})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Each basis grows by what this task's inputs have outside of it."""
        assert review is not None
        threshold = min(1.0, self.threshold + self.growth * task.index)
        bases = self.state.get("bases", {})
        self.state["bases"] = {
            name: extended(bases.get(name, gram.new_zeros(len(gram), 0)), gram, threshold)
            for name, gram in review.sums.items()
        }


def inputs_read(model: AdaptedModel, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What every weight matrix of the adapter reads, float32 [tokens, d_in]."""
    tensors = model.adapters[MAIN].tensors
    read = {}
    if modules := modules_of(tensors):
        for module, x in model.inputs_at(inputs, modules).items():
            read[f"{module}.lora_A.weight"] = x
            read[f"{module}.lora_B.weight"] = x @ tensors[f"{module}.lora_A.weight"].T
        return read
    layers = [name.removesuffix(".down.weight") for name in tensors if "down.weight" in name]
    kind = model.adapters[MAIN].kind
    assert isinstance(kind, Bottleneck)
    found = kind.sites(model.backbone)
    sites = {layer: found[int(layer)].read for layer in layers}
    entering = model.inputs_at(inputs, list(sites.values()))
    for layer, module in sites.items():
        x = entering[module]
        read[f"{layer}.down.weight"] = x
        inner = x @ tensors[f"{layer}.down.weight"].T + tensors[f"{layer}.down.bias"]
        read[f"{layer}.up.weight"] = inner.relu()
    return read


def extended(basis: Tensor, gram: Tensor, threshold: float) -> Tensor:
    """The orthonormal basis [d, k] with as few directions more as it takes to hold the threshold's
    share of the inputs' squared length (eq. 8 and 9).

    `gram` [d, d] is R R^T of the inputs R: its eigenvalues are R's squared singular values.
    """
    whole, basis = gram.double(), basis.double()
    outside = torch.eye(len(gram), dtype=whole.dtype, device=whole.device) - basis @ basis.T
    values, vectors = torch.linalg.eigh(outside @ whole @ outside)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    total = whole.trace()
    held = total - values.sum() + torch.cat([values.new_zeros(1), values.cumsum(0)])
    missing = int((held < threshold * total).sum())
    number = min(missing, len(gram) - basis.shape[1])
    return torch.cat([basis, vectors[:, :number]], dim=1).to(gram.dtype)
