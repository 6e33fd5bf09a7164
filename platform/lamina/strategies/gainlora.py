"""GainLoRA (Liang et al., 2025): a gate for each task's LoRA, which the inputs of earlier tasks
leave closed.

Trained: B of the current task's LoRA (A is designed as in InfLoRA, with which the authors' code
runs it), the task's gate, and the head's rows of the task's classes. Remembered: earlier LoRAs and
gates, frozen; per module and per layer of the gate a basis of the directions that earlier inputs
took. A gate starts as the last one, but for its last layer, which starts where earlier inputs give
it nothing; each step keeps the part of what it learned that they do not see. Differs from the
authors' code: the gate reads the feature of the frozen backbone, there the mean of the embeddings
of words; bases are of whole layers, there of slices of them; rows of weights are not scaled back to
their norm after the projection; there, the forward sets all gates to one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import Tensors, uniform
from lamina.adapters.merging import composed
from lamina.adapters.model import AdaptedModel
from lamina.adapters.succession import (
    grown_subspaces,
    input_covariances,
    lora_of,
    read_free_directions,
)
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.memory.subspace import left_directions, recalled
from lamina.strategies.base import Strategy

LORA, GATE = "task_{}", "gate_{}"
LAYERS = ("down", "up", "last")
"""The layers of a gate: dim -> hidden -> dim -> 1."""
OF_GATE = "gate."
"""Before their names in a summary."""


@dataclass
class GainLoRA(Strategy):
    """Cross-entropy over the task's classes under the gated LoRAs."""

    threshold: float = 0.95
    """epsilon_th, the share of energy that the bases hold after the first task; it grows to 1."""
    gate_threshold: float = 0.95
    """The same of the gates' bases (`transthreshold`)."""
    num_tasks: int = 10
    """T, over how many tasks both grow."""
    hidden: int = 100
    """Inner width of a gate."""

    family = "lora"
    paper = "Gated Integration of Low-Rank Adaptation for Continual Learning of Language Models"
    year = 2025
    answers = ("classes", "tokens")
    adapters = ("lora",)
    grows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            positive=["num_tasks", "hidden"],
            share=["threshold", "gate_threshold"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The first gate: layers as nn.Linear starts them, the last from U(-1, 1)."""
        dim, generator = model.backbone.dim, generator_of(model.seed, "adapter", GATE)
        gate = {
            "down": uniform((self.hidden, dim), dim**-0.5, generator),
            "up": uniform((dim, self.hidden), self.hidden**-0.5, generator),
            "last": uniform((1, dim), 1.0, generator),
        }
        model.add_tensors(GATE.format(0), gate)
        self.state.update(subspaces={}, gate_subspaces={}, num_tasks=0)

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Sums of x x^T, over the inputs of every module and of the last gate's layers."""
        return self._inputs(model, batch)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """A new LoRA that reads what is free, and a gate that earlier inputs leave closed."""
        assert preview is not None
        index = self.state["num_tasks"]
        if index > 0:
            last = GATE.format(index - 1)
            model.freeze(LORA.format(index - 1), last)
            gate = {name: each.clone() for name, each in model.adapters[last].tensors.items()}
            gate["last"] = self._closed(gate["last"], preview[OF_GATE + "last"])
            model.add_tensors(GATE.format(index), gate)
        new = model.add(LORA.format(index), lora_of(model))
        assert new is not None
        read_free_directions(new.tensors, preview.sums, self.state["subspaces"])
        started = model.adapters[GATE.format(index)].tensors
        self.state["start"] = {name: each.detach().clone() for name, each in started.items()}
        self.state["num_tasks"] = index + 1

    def _closed(self, last: Tensor, gram: Tensor) -> Tensor:
        """A last layer [1, dim] as long as `last`: the leading direction of the new task's inputs,
        of sums x x^T `gram`, that no earlier task took."""
        taken = recalled(self.state["gate_subspaces"], "last", gram)
        free = left_directions(taken.outside(gram.double()))[0].T[:1].to(last.dtype)
        if len(free) == 0:
            return taken.outside(last.T).T
        return free * last.norm() * (free @ last.T).sign()

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes)."""
        assert batch.task is not None
        logits = self.predict(model, batch.inputs, None)
        return StepOutput(cross_entropy(logits, batch.labels, batch.task.classes))

    @torch.no_grad()
    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """G <- G_0 + (G - G_0)(I - V V^T) for every layer G of the task's gate, which started at
        G_0, and V a basis of what earlier inputs took."""
        gate = model.adapters[GATE.format(self.state["num_tasks"] - 1)].tensors
        for name, start in self.state["start"].items():
            moved = (gate[name] - start).T
            taken = recalled(self.state["gate_subspaces"], name, moved)
            gate[name].copy_(start + taken.outside(moved).T)

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """The same sums under what was learned."""
        return self._inputs(model, batch)

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Add to each basis what the task's inputs bring."""
        assert review is not None
        climb = min(task.index / self.num_tasks, 1.0)
        of_gate = {name: review[OF_GATE + name] for name in LAYERS}
        of_modules = {n: each for n, each in review.sums.items() if not n.startswith(OF_GATE)}
        for key, grams, start in (
            ("subspaces", of_modules, self.threshold),
            ("gate_subspaces", of_gate, self.gate_threshold),
        ):
            threshold = start + (1 - start) * climb
            self.state[key] = grown_subspaces(grams, self.state[key], threshold)

    def _inputs(self, model: AdaptedModel, batch: Batch) -> Summary:
        adapters, laid = self._gated(model, batch.inputs)
        read = input_covariances(model, batch, adapters, laid)
        gate = model.adapters[GATE.format(max(self.state["num_tasks"] - 1, 0))].tensors
        layers, _ = through_gate(model.frozen_features(batch.inputs), gate)
        of_gate = {OF_GATE + name: x.T @ x for name, x in layers.items()}
        return Summary({**read.sums, **of_gate})

    def _gated(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor]
    ) -> tuple[list[str], dict[str, Tensor]]:
        """The LoRAs as one, sum_i a_i(x) B_i A_i: its name, and what stands in for its tensors."""
        features, number = model.frozen_features(inputs), self.state["num_tasks"]
        names = [LORA.format(index) for index in range(number)]
        if not names:
            return [], {}
        gates = [model.adapters[GATE.format(index)].tensors for index in range(number)]
        opened = torch.stack([through_gate(features, gate)[1] for gate in gates], dim=1)
        module = composed([model.adapters[name].tensors for name in names], opened)
        return names[-1:], {f"{names[-1]}.{key}": tensor for key, tensor in module.items()}

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under every task's LoRA, as far as its gate opens for an input."""
        adapters, laid = self._gated(model, inputs)
        return model(inputs, adapters=adapters, parameters=laid).logits


def through_gate(features: Tensor, gate: Tensors) -> tuple[dict[str, Tensor], Tensor]:
    """What each layer of a gate reads of features [N, dim], by its name; and how far it opens,
    a = |2 sigmoid(b) - 1| with b of its last layer, [N]."""
    inner = F.silu(F.linear(features, gate["down"]))
    outer = F.silu(F.linear(inner, gate["up"]))
    opened = (2 * F.linear(outer, gate["last"]).sigmoid() - 1).abs()
    return {"down": features, "up": inner, "last": outer}, opened[:, 0]
