"""SAPT (Zhao et al., 2024): shared attention, which every input pays to the LoRAs of all tasks, in
training and at test alike; reflection on earlier tasks keeps it where it was.

Trained: the current task's LoRA (or prompts) and key, the projection of the query that all tasks
share, and the head's rows of the task's classes. Remembered: earlier LoRAs and keys, frozen; of
each task the mean attention that its rows paid when it was learned; the exemplars of the job's
memory. Differs from the authors' code: it reflects on rows that a model generated, there some of
each task in a step, here on exemplars, some of all tasks together; its query sees no padding, and
of an image it is the frozen feature; the attention learns more slowly than the rest. There, all
learn at 3e-4 or less. A small stream wants LoRAs that learn at 5e-3; there, the reflection draws an
attention that is as fast to the LoRAs of earlier tasks before the new one, which starts as nothing,
has anything to offer: it ends at 1 and 0 for every input, and the task is not learned. A tenth of
the rate was chosen on such a stream (lights, then timers; jobs/README.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.merging import composed
from lamina.adapters.model import AdaptedModel
from lamina.adapters.queries import queries, query_width
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import Strategy

MODULE, KEY, QUERY = "task_{}", "key_{}", "query"


@dataclass
class SAPT(Strategy):
    """Cross-entropy over the task's classes under the attended LoRAs, and attentive reflection."""

    reflection: float = 0.5
    """lambda, the weight of the exemplars' attention (`kl_ratio` 0.5 in the authors' scripts)."""
    attention_rate: float = 0.1
    """Learning rate of the attention, keys and projection, as a share of the job's (1 in the
    authors' scripts; `attn_lr`)."""
    hidden: int = 100
    """Inner width of the projection of the query (`trans_hidden_dim`)."""
    replay_size: int = 32
    """Exemplars that each step reflects on."""

    family = "lora"
    paper = (
        "SAPT: A Shared Attention Framework for Parameter-Efficient Continual Learning of Large "
        "Language Models"
    )
    year = 2024
    answers = ("classes", "tokens")
    adapters = ("lora", "prompt")
    needs_memory = True
    routes = True
    grows = True
    matters_when = only_where(reflection="replay_size")
    from_second_task = ("reflection", "replay_size")

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["reflection", "replay_size", "attention_rate"],
            positive=["hidden"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The projection of the query: two linear layers as nn.Linear starts them, and a norm."""
        dim, width = model.backbone.dim, query_width(model)
        generator = generator_of(model.seed, "adapter", QUERY)
        projection = {
            "down": uniform((self.hidden, width), width**-0.5, generator),
            "up": uniform((dim, self.hidden), self.hidden**-0.5, generator),
            "norm.weight": torch.ones(dim),
            "norm.bias": torch.zeros(dim),
        }
        model.add_tensors(QUERY, projection)
        self.state["means"] = []

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze the last LoRA and key, and add new ones."""
        if task.index > 0:
            model.freeze(MODULE.format(task.index - 1), KEY.format(task.index - 1))
        model.add(MODULE.format(task.index))
        generator = generator_of(model.seed, "adapter", KEY.format(task.index))
        key = uniform((model.backbone.dim,), 1.0, generator)
        model.add_tensors(KEY.format(task.index), {"key": key})

    def rate(self, name: str) -> float:
        """A share of the job's for the attention."""
        of_attention = name.startswith((f"{QUERY}.", KEY.format("")))
        return self.attention_rate if of_attention else 1.0

    def scores(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """q(x) k_i / sqrt(d) with all keys, [N, tasks]."""
        tensors = model.adapters[QUERY].tensors
        asked = F.linear(queries(model, inputs), tensors["down"])
        inner = F.silu(F.linear(asked, tensors["up"]))
        query = F.layer_norm(inner, inner.shape[-1:], tensors["norm.weight"], tensors["norm.bias"])
        number = sum(name.startswith(KEY.format("")) for name in model.adapters)
        names = [KEY.format(index) for index in range(number)]
        keys = torch.stack([model.adapters[name].tensors["key"] for name in names])
        return query @ keys.T / query.shape[1] ** 0.5

    def logits(self, model: AdaptedModel, inputs: Mapping[str, Tensor], scores: Tensor) -> Tensor:
        """Logits under sum_i a_i(x) B_i A_i, a = softmax(scores) [N, tasks]."""
        names = [MODULE.format(index) for index in range(scores.shape[1])]
        module = composed([model.adapters[name].tensors for name in names], scores.softmax(dim=1))
        laid = {f"{names[-1]}.{key}": tensor for key, tensor in module.items()}
        return model(inputs, adapters=names[-1:], parameters=laid).logits

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes) + lambda * sum over earlier tasks of the mean over exemplars of
        KL(mean attention of their task || a(x))."""
        assert batch.task is not None
        logits = self.logits(model, batch.inputs, self.scores(model, batch.inputs))
        loss = cross_entropy(logits, batch.labels, batch.task.classes)
        exemplars = replay.draw(self.replay_size)
        if exemplars is None:
            return StepOutput(loss)
        scores = self.scores(model, exemplars.inputs)
        means = [F.pad(each, (0, scores.shape[1] - len(each))) for each in self.state["means"]]
        wanted = torch.stack(means)[exemplars.extras["task"]]
        apart = F.kl_div(scores.log_softmax(dim=1), wanted, reduction="batchmean")
        # Tasks have as many exemplars each, so their means add up to as many times that of all.
        apart = len(means) * apart * replay.balance(len(exemplars), batch)
        return StepOutput(loss + self.reflection * apart, {"reflection": apart.detach()})

    def annotate(self, model: AdaptedModel, batch: Batch) -> Mapping[str, Tensor]:
        """The index of the task that an exemplar comes from."""
        assert batch.task is not None
        return {"task": torch.full((len(batch),), batch.task.index)}

    def review(self, model: AdaptedModel, batch: Batch) -> Summary:
        """The sum of the attention that the task's rows pay, and how many there are."""
        attention = self.scores(model, batch.inputs).softmax(dim=1)
        count = torch.tensor(float(len(batch)), device=attention.device)
        return Summary({"attention": attention.sum(dim=0), "count": count})

    def end_task(self, model: AdaptedModel, task: Task, review: Summary | None) -> None:
        """Remember the mean."""
        assert review is not None
        self.state["means"].append(review["attention"] / review["count"])

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The task that gets most of the attention."""
        return self.scores(model, inputs).argmax(dim=1)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under the LoRAs that each input attends to."""
        return self.logits(model, inputs, self.scores(model, inputs))
