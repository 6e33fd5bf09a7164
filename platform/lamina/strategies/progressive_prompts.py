"""Progressive Prompts (Razdaibiedina et al., 2023): each task learns a soft prompt that stands
before those of all earlier tasks.

Trained: the current task's prompt, through a residual MLP that all its tokens share, and the task's
head. Remembered: every task's prompt, as it left its MLP, and head; the MLP is dropped. Task k
reads [P_k, ..., P_1, x]; without a task the latest answers. Where answers are classes, each task
has a head, which reads the backbone's pooled feature, as with the paper's BERT; where they are
tokens the model answers in words, as its T5 does. As in the authors' code, a prompt starts as words
drawn from the vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.model import HEAD, AdaptedModel
from lamina.adapters.routing import among
from lamina.backbones.overlay import Overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import NO_ADAPTER, Strategy

PROMPT, MLP, TASK_HEAD = "prompt_{}", "mlp", "head_{}"


@dataclass
class ProgressivePrompts(Strategy):
    """Cross-entropy on the task's own head; what earlier tasks learned helps and stays."""

    length: int = 10
    """Tokens of a prompt."""
    bottleneck: int = 800
    """Inner width of the residual MLP; 0 trains the prompts themselves."""

    family = "prompt"
    paper = "Progressive Prompts: Continual Learning for Language Models"
    year = 2023
    answers = ("classes", "tokens")
    scenarios = ("task_incremental",)
    adapters = (NO_ADAPTER,)
    modalities = ("text",)
    grows = True

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["bottleneck"], positive=["length"])

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        model.backbone.capabilities.check_prompts(self.length, "strategy.name: its prompts")
        self.state["classes"] = []

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze what is there; a new prompt, MLP and head."""
        model.freeze(*model.adapters)
        name, dim = PROMPT.format(task.index), model.backbone.capabilities.word_width
        generator = generator_of(model.seed, "adapter", name)
        words = model.backbone.capabilities.word_embeddings.weight
        drawn = torch.randint(len(words), (self.length,), generator=generator)
        model.add_tensors(name, {"prompt": words[drawn.to(words.device)].float()})
        if self.bottleneck > 0:
            model.add_tensors(MLP, residual_mlp(dim, self.bottleneck, generator))
        model.grow_head(len(task.classes), TASK_HEAD.format(task.index))
        self.state["classes"].append(list(task.classes))

    def prompts(self, model: AdaptedModel, index: int) -> list[Tensor]:
        """P_k, ..., P_1 as the input of task k sees them, each [length, dim]."""
        prompts = [model.adapters[PROMPT.format(k)].tensors["prompt"] for k in range(index + 1)]
        if MLP in model.adapters and index == len(self.state["classes"]) - 1:
            prompts[-1] = reparameterised(prompts[-1], model.adapters[MLP].tensors)
        return prompts[::-1]

    def answer(self, model: AdaptedModel, inputs: Mapping[str, Tensor], index: int) -> Tensor:
        """Logits of a task's prompts: of its head, impossible for other tasks' classes; or of the
        tokens of answers."""
        overlay = Overlay(prompts=self.prompts(model, index))
        logits = model.under(inputs, overlay, TASK_HEAD.format(index)).logits
        classes = self.state["classes"][index]
        return among(logits, classes, model.num_classes(HEAD)) if classes else logits

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = -log p(y | [P_k, ..., P_1, x]) among the task's classes."""
        assert batch.task is not None
        logits = self.answer(model, batch.inputs, batch.task.index)
        return StepOutput(cross_entropy(logits, batch.labels))

    @torch.no_grad()
    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Keep the prompt as the MLP made it, and drop the MLP."""
        if MLP in model.adapters:
            learned = self.prompts(model, task.index)[0]
            model.remove(MLP)
            model.adapters[PROMPT.format(task.index)].tensors["prompt"].copy_(learned)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """The answer of the task; the latest stands in where none is told or it is yet to come."""
        latest = len(self.state["classes"]) - 1
        return self.answer(model, inputs, latest if task is None else min(task.index, latest))


def residual_mlp(dim: int, bottleneck: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Two linear layers as nn.Linear starts them, and a layer norm."""
    return {
        "down.weight": uniform((bottleneck, dim), dim**-0.5, generator),
        "down.bias": uniform((bottleneck,), dim**-0.5, generator),
        "up.weight": uniform((dim, bottleneck), bottleneck**-0.5, generator),
        "up.bias": uniform((dim,), bottleneck**-0.5, generator),
        "norm.weight": torch.ones(dim),
        "norm.bias": torch.zeros(dim),
    }


def reparameterised(prompt: Tensor, mlp: Mapping[str, Tensor]) -> Tensor:
    """P' = LayerNorm(W_up ReLU(W_down P + b_down) + b_up) + P, [length, dim]."""
    inner = F.relu(F.linear(prompt, mlp["down.weight"], mlp["down.bias"]))
    outer = F.linear(inner, mlp["up.weight"], mlp["up.bias"])
    return F.layer_norm(outer, outer.shape[-1:], mlp["norm.weight"], mlp["norm.bias"]) + prompt
