"""CL-LoRA (He et al., 2025): lower layers share one LoRA over all tasks, upper layers get one per
task with a learned weight for every block.

Trained: B of the shared LoRA (A is random, orthogonal and fixed), the task's LoRA and block weights
mu, and a cosine head. Remembered: all specific LoRAs and mu, and class means under the modules of
their task. At test, one pass per task; a class answers with the cosine to its nearest mean. The
shared LoRA of before teaches at an early exit, before the first specific layer. Unlike the code: A
is fixed on the first task too, as in the paper; both gradients in one step; a ViT's exit is normed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import Tensors, uniform
from lamina.adapters.kinds.lora import downs, freeze_downs, scaled, set_orthonormal_downs
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.routing import among
from lamina.adapters.succession import lora_of
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, Site
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.descent import plus
from lamina.losses import cross_entropy, distillation
from lamina.memory.gaussian import class_means, class_sums
from lamina.memory.memory import Replay
from lamina.registry import InputError, only_where
from lamina.strategies.base import Strategy

SHARED = "shared"
TEACHER = "teacher"
SCALE = "scale"


@dataclass
class CLLoRA(Strategy):
    """Cross-entropy, distillation of what is shared, and block weights unlike other tasks'."""

    shared_layers: float = 0.5
    """Share of the adapted layers, from below, whose LoRA is shared (6 of 12 in the paper)."""
    distillation: float = 5.0
    """Weight of the distillation; as in the code, without the factor T^2."""
    temperature: float = 2.0
    """T, the softening of both models' outputs."""
    orthogonality: float = 1e-4
    """Weight of the mean |cos| of the block weights with those of earlier tasks."""

    family = "lora"
    paper = "CL-LoRA: Continual Low-Rank Adaptation for Rehearsal-Free Class-Incremental Learning"
    year = 2025
    classes_only = "it answers with the nearest mean of a class"
    matters_when = only_where(temperature="distillation")
    adapters = ("lora",)
    grows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["distillation", "orthogonality"],
            positive=["temperature"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The shared LoRA, with orthonormal rows of A."""
        layers = model.backbone.architecture.layers(lora_of(model).layers)
        first = round(self.shared_layers * len(layers))
        if not 0 < first < len(layers):
            raise InputError(f"strategy.shared_layers: {self.shared_layers} shares {first} layers")
        self.state.update(specific=layers[first:], prototypes={})
        model.add(SHARED, replace(lora_of(model), layers=tuple(layers[:first])))
        tensors = model.adapters[SHARED].tensors
        set_orthonormal_downs(tensors, generator_of(model.seed, "cl_lora", SHARED))

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Keep the shared LoRA as the teacher, freeze the last task's modules, attach new ones."""
        if model.active[-1] != SHARED:
            last = model.active.pop()
            model.freeze(last, f"mu_{last}")
            model.copy(SHARED, TEACHER)
        freeze_downs(model.adapters[SHARED].tensors)
        name = f"task_{task.index}"
        model.add(name, replace(lora_of(model), layers=tuple(self.state["specific"])))
        shape = (len(downs(model.adapters[name].tensors)),)
        mu = 1 + uniform(shape, 0.5, generator_of(model.seed, "cl_lora", name))
        model.add_tensors(f"mu_{name}", {"mu": mu})
        model.add_tensors(SCALE, {"sigma": torch.ones(())})

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + orthogonality * mean_i |cos(mu_i, mu_t)|; its reference is
        distillation * KL(teacher || student) of the softened outputs at the exit."""
        assert batch.task is not None
        classes = list(batch.task.classes)
        name = model.active[-1]
        features, at_exit = self.features(model, batch.inputs, model.active)
        loss = cross_entropy(self.logits(model, features), batch.labels, classes)
        if TEACHER not in model.adapters:
            return StepOutput(loss)
        past = [model.adapters[f"mu_{each}"].tensors["mu"] for each in self.state["prototypes"]]
        mu = model.adapters[f"mu_{name}"].tensors["mu"]
        alike = F.cosine_similarity(torch.stack(past), mu[None]).abs().mean()
        with torch.no_grad(), model.dropping(None):
            taught = self.logits(model, self.features(model, batch.inputs, [TEACHER])[1])
        student = self.logits(model, at_exit)[:, classes]
        kept = distillation(student, taught[:, classes], self.temperature) / self.temperature**2
        return StepOutput(loss + self.orthogonality * alike, references=[self.distillation * kept])

    def features(
        self, model: AdaptedModel, inputs: Tensors, adapters: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Features [N, dim] of the last layer and at the exit; specific updates count mu times."""
        weighted: dict[str, Tensor] = {}
        for name in set(adapters) - {SHARED, TEACHER}:
            tensors = model.adapters[name].tensors
            mu = model.adapters[f"mu_{name}"].tensors["mu"]
            weighted |= scaled(tensors, dict(zip(downs(tensors), mu, strict=True)), f"{name}.")
        overlay = model.overlay(adapters, weighted)
        return with_early_exit(model.backbone, inputs, overlay, self.state["specific"][0])

    def logits(self, model: AdaptedModel, features: Tensor) -> Tensor:
        """sigma cos(f, w_c), [N, classes]."""
        head = model.adapters[HEAD].tensors
        scale = model.adapters[SCALE].tensors
        return scale["sigma"] * (F.normalize(features) @ F.normalize(head["weight"]).T)

    def adjust(
        self, model: AdaptedModel, gradients: Tensors, references: Sequence[Tensors]
    ) -> Tensors:
        """Add the distillation's gradient, of B by the norms of the teacher's rows (mean 1)."""
        kept = dict(references[0]) if references else {}
        for name in [each for each in kept if each.startswith(f"{SHARED}.")]:
            old = model.adapters[TEACHER].tensors[name.removeprefix(f"{SHARED}.")]
            norms = old.norm(dim=1, keepdim=True)
            kept[name] = kept[name] * norms / norms.mean().clamp_min(1e-12)
        return plus(gradients, [kept], [1.0])

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """Per class, how many rows there are and the sum of their features."""
        features, _ = self.features(model, batch.inputs, model.active)
        return Summary(class_sums(features, batch.labels, model.num_classes()))

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Keep the class means."""
        assert review is not None
        classes = review["count"].nonzero()[:, 0].tolist()
        kept = {"classes": classes, "rows": F.normalize(class_means(review.sums)[classes])}
        self.state["prototypes"][model.active[-1]] = kept

    def predict(self, model: AdaptedModel, inputs: Tensors, task: Task | None) -> Tensor:
        """Cosines to class means under the modules of their task, or of the given task alone."""
        known = self.state["prototypes"]
        own = f"task_{task.index}" if task is not None else ""
        answers = []
        for name in [own] if own in known else known:
            features = F.normalize(self.features(model, inputs, [SHARED, name])[0])
            cosines = features @ known[name]["rows"].T
            answers.append(among(cosines, known[name]["classes"], model.num_classes()))
        return torch.stack(answers).amax(dim=0)


def with_early_exit(
    backbone: Backbone, inputs: Mapping[str, Tensor], overlay: Overlay, layer: int
) -> tuple[Tensor, Tensor]:
    """Features [N, dim] of the backbone under an overlay without prompts, and [N, dim] from the
    tokens that the attention of `layer` reads, pooled as the backbone pools its last ones.

    One forward for both. In a vision transformer the tokens have passed that layer's normalisation.
    """
    architecture = backbone.architecture
    query = f"{architecture.attentions[layer]}.{architecture.query_and_value[0]}"
    seen: list[Tensor] = []

    def read(x: Tensor, y: Tensor) -> Tensor:
        seen.append(x)
        return y

    reading = Overlay(patches={Site(query, query): [read]})
    features = backbone(inputs, reading | overlay).features
    tokens = seen[0].float()
    mask = inputs.get("attention_mask")
    if backbone.pooling == "first":
        return features, tokens[:, 0]
    if mask is None:
        return features, tokens.mean(dim=1)
    weights = mask.to(tokens.dtype)[:, :, None]
    return features, (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)
