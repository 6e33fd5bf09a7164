"""ConvPrompt (Roy et al., 2024): each task brings convolution kernels that make its prompts from
embeddings all tasks share, as many as it is unlike the tasks before.

Trained: per prompted layer and head, shared embeddings of keys and of values; a projection of the
query; and the task's kernels, with a key each. A layer's query is the first token that enters it:
no second forward. Remembered: earlier kernels and keys, frozen; the shared tensors as they were,
which they leave at a price; a mean feature per class. Differs from the paper: a task's likeness,
its classes' mean largest cosine with an earlier one, is of these means, not of a language model's
texts; at least one kernel a task. The authors' code adds a prompt to the next layer's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.model import AdaptedModel
from lamina.adapters.prompting import layers_in, orthonormal
from lamina.backbones.overlay import KeysAndValues, Overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.gaussian import class_means, class_sums, plus_classes
from lamina.memory.memory import Replay
from lamina.registry import InputError
from lamina.strategies.base import NO_ADAPTER, Strategy

SHARED = "shared"
BEFORE = "shared_before"
TASK = "task_{}"


@dataclass
class ConvPrompt(Strategy):
    """Cross-entropy over the task's classes, and the L1 distance of what is shared from before."""

    length: int = 20
    """Prefix tokens of a layer."""
    kernel: int = 17
    """k, height and width of a kernel."""
    max_kernels: int = 5
    """J_max, kernels of a task that is unlike all others."""
    anchoring: float = 0.01
    """lambda, the weight of the distance that shared tensors moved."""
    layers: tuple[int, ...] | None = None
    """Prompted layers. Default: the first seven twelfths (0 to 6 of twelve)."""

    family = "prompt"
    paper = "Convolutional Prompting meets Language Models for Continual Learning"
    year = 2024
    classes_only = (
        "its query is the first token of a layer, which in a language model has read nothing"
    )
    adapters = (NO_ADAPTER,)
    grows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["anchoring"],
            positive=["length", "kernel", "max_kernels"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """Embeddings from U(-1, 1), [layers * 2 * heads, length + k - 1, dim / heads + k - 1], and
        the projection dim -> dim / 2 -> dim / 4."""
        dim = model.backbone.dim
        heads = model.backbone.capabilities.num_heads
        if self.max_kernels > dim // 4:
            raise InputError(f"strategy.max_kernels: {self.max_kernels} is more than {dim // 4}")
        rows = self.length + self.kernel - 1
        columns = dim // heads + self.kernel - 1
        shape = (len(self.layers_of(model)) * 2 * heads, rows, columns)
        generator = generator_of(model.seed, "adapter", SHARED)
        shared = {"embeddings": uniform(shape, 1.0, generator)}
        for name, d_in, d_out in (("down", dim, dim // 2), ("query", dim // 2, dim // 4)):
            shared[f"{name}.weight"] = uniform((d_out, d_in), d_in**-0.5, generator)
            shared[f"{name}.bias"] = uniform((d_out,), d_in**-0.5, generator)
        model.add_tensors(SHARED, shared)
        self.state["num_tasks"] = 0

    def layers_of(self, model: AdaptedModel) -> list[int]:
        """The prompted layers."""
        return layers_in(model.backbone, self.layers, range(0, 7), "layers")

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Per class, sums of the features of the frozen backbone."""
        query = model.frozen_features(batch.inputs)
        return Summary(class_sums(query, batch.labels, model.num_classes()))

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Add J_t = ceil((1 - likeness) J_max) kernels, with keys orthonormal to the old."""
        assert preview is not None
        index = self.state["num_tasks"]
        number = self.max_kernels
        dim = model.backbone.dim
        channels = len(model.adapters[SHARED].tensors["embeddings"])
        earlier = torch.empty(0, dim // 4)
        past = self.state.get("sums", {})
        if past:
            known = class_means(past)[past["count"] > 0]
            own = F.normalize(class_means(preview.sums)[list(task.classes)])
            likeness = float((own @ F.normalize(known).T).amax(dim=1).mean())
            number = max(1, ceil((1 - likeness) * self.max_kernels))
            earlier = self.of_all(model, "keys").detach().cpu()
            model.copy(SHARED, BEFORE)
            model.freeze(TASK.format(index - 1))
        generator = generator_of(model.seed, "adapter", TASK.format(index))
        shape = (number, channels, self.kernel, self.kernel)
        bound = 1 / self.kernel
        tensors = {
            "keys": orthonormal(torch.randn(shape[0], dim // 4, generator=generator), earlier),
            "kernels": uniform(shape, bound, generator),
            "bias": uniform(shape[:2], bound, generator),
        }
        model.add_tensors(TASK.format(index), tensors)
        self.state.update(num_tasks=index + 1, sums=plus_classes(preview.sums, past))

    def of_all(self, model: AdaptedModel, name: str) -> Tensor:
        """A tensor of all kernels, the earlier tasks' first."""
        groups = [TASK.format(index) for index in range(self.state["num_tasks"])]
        return torch.cat([model.adapters[group].tensors[name] for group in groups])

    def overlay(self, model: AdaptedModel) -> Overlay:
        """In each layer sum_j cos(projected first token, key_j) * (kernel_j convolved with the
        layer's embeddings), for keys and for values."""
        shared = model.adapters[SHARED].tensors
        keys = F.normalize(self.of_all(model, "keys"))
        kernels, bias = (self.of_all(model, name) for name in ("kernels", "bias"))
        layers = self.layers_of(model)
        made = convolved(shared["embeddings"], kernels, bias, len(layers))

        def prefix(prompts: Tensor) -> Callable[[Tensor], KeysAndValues]:
            def of(tokens: Tensor) -> KeysAndValues:
                inner = F.linear(tokens[:, 0], shared["down.weight"], shared["down.bias"]).relu()
                query = F.linear(inner, shared["query.weight"], shared["query.bias"])
                weights = F.normalize(query) @ keys.T
                own = torch.einsum("nj,jcld->cnld", weights, prompts)
                return own[0], own[1]

            return of

        of_layer = dict(zip(layers, made, strict=True))
        return Overlay(prefixes={layer: [prefix(own)] for layer, own in of_layer.items()})

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda * sum of |shared - shared before the task|."""
        assert batch.task is not None
        logits = self.predict(model, batch.inputs, None)
        loss = cross_entropy(logits, batch.labels, classes=batch.task.classes)
        if BEFORE not in model.adapters:
            return StepOutput(loss)
        now = model.adapters[SHARED].tensors
        before = model.adapters[BEFORE].tensors
        moved = torch.stack([(now[name] - before[name]).abs().sum() for name in now]).sum()
        return StepOutput(loss + self.anchoring * moved, {"moved": moved.detach()})

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under the prompts that each input weighs."""
        return model.logits(model.backbone(inputs, self.overlay(model)).features)


def convolved(embeddings: Tensor, kernels: Tensor, bias: Tensor, num_layers: int) -> Tensor:
    """Prompts [layers, J, 2, length, dim] of embeddings [layers * 2 * heads, height, width] under
    kernels [J, layers * 2 * heads, k, k] with a bias each: every head has its own
    (ConvPrompt)."""
    number, channels = bias.shape
    weight = kernels.transpose(0, 1).flatten(0, 1)[:, None]
    made = F.conv2d(embeddings[None], weight, bias.T.flatten(), groups=channels)[0]
    pieces = made.unflatten(0, (num_layers, 2, channels // (2 * num_layers), number))
    return pieces.permute(0, 3, 1, 4, 2, 5).flatten(4)
