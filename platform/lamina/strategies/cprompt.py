"""CPrompt (Gao et al., 2024): consistent prompting, prompts and classifiers are trained as the test
will use them: beside all classifiers, and under prompts of any task.

Trained: the current task's prompts (they start as the last task's), its classifier, one key for
each of its classes, and the head as the auxiliary classifier. Remembered: those of earlier tasks,
frozen; at test the nearest key names the task whose prompts are used, and all classifiers answer.
Differs from the paper: the second half of the prompts joins at the middle layer as keys and values
of that layer alone, not as tokens that stay; a class that comes back gets a key and a row in the
new task too, and its best row answers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.base import uniform
from lamina.adapters.model import AdaptedModel
from lamina.adapters.prompting import layers_in, orthonormal, prefix_overlay
from lamina.adapters.routing import among
from lamina.backbones.overlay import Overlay
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.registry import only_where
from lamina.strategies.base import NO_ADAPTER, Strategy

TASK = "task_{}"
CLASSIFIER = "classifier_{}"


@dataclass
class CPrompt(Strategy):
    """Cross-entropy of auxiliary classifier, keys and classifier, and classifier consistency."""

    length: int = 50
    """Tokens of a prompt, before the input and again in the middle."""
    consistency: float = 1.0
    """alpha, the weight of the classifier consistency."""
    smoothing: float = 1.2
    """tau, the temperature of an earlier classifier's target where it is as sure as the current
    one (1.02 to 1.2 in the paper)."""
    margin: float = 0.0
    """m, by how much the current classifier must be surer (0 to 0.1)."""

    family = "prompt"
    paper = "Consistent Prompting for Rehearsal-Free Continual Learning"
    year = 2024
    classes_only = "each class has a key, and each task a classifier"
    matters_when = only_where(smoothing="consistency", margin="consistency")
    adapters = (NO_ADAPTER,)
    routes = True
    grows = True

    def __post_init__(self) -> None:
        check_fields(
            "strategy", self, not_negative=["consistency"], positive=["length", "smoothing"]
        )

    def setup(self, model: AdaptedModel) -> None:
        """Nothing yet: every task brings its own."""
        self.state.update(classes=[], num_steps=0)

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Freeze what there is; add prompts where the last ones ended, a classifier, and keys
        orthonormal to the earlier ones."""
        last = len(self.state["classes"])
        dim = model.backbone.dim
        generator = generator_of(model.seed, "adapter", TASK.format(last))
        drawn = torch.randn(len(task.classes), dim, generator=generator)
        if last == 0:
            tokens = uniform((3, self.length, dim), dim**-0.5, generator)
            past = drawn[:0]
        else:
            model.freeze(TASK.format(last - 1), CLASSIFIER.format(last - 1))
            tokens = model.adapters[TASK.format(last - 1)].tensors["tokens"].clone()
            past = self._of_all(model, "keys").cpu()
        keys = orthonormal(drawn, past)
        model.add_tensors(TASK.format(last), {"tokens": tokens, "keys": keys})
        model.grow_head(len(task.classes), CLASSIFIER.format(last))
        self.state["classes"].append(list(task.classes))

    def features(self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Tensor) -> Tensor:
        """Features [N, dim] under the prompts of each row's task, int64 [N]."""
        tokens = self._of_all(model, "tokens").unflatten(0, (-1, 3))[task]
        (middle, *_) = layers_in(model.backbone, None, range(5, 6), "length")
        overlay = prefix_overlay(tokens[:, None, 1:], [middle])
        return model.backbone(inputs, Overlay(prompts=[tokens[:, 0]]) | overlay).features

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(auxiliary, own prompts) + alpha / (t - 1) sum_k CCL_k + CE(cosines with all keys)
        + CE(classifier, prompts of a task drawn for each row)."""
        assert batch.task is not None
        current = len(self.state["classes"]) - 1
        classes = self.state["classes"][-1]
        own = torch.full_like(batch.labels, current)
        features = self.features(model, batch.inputs, own)
        auxiliary = cross_entropy(model.logits(features), batch.labels, classes=classes)
        surest = model.logits(features, CLASSIFIER.format(current)).amax(dim=1)
        consistency = torch.zeros_like(auxiliary)
        for index in range(current):
            earlier = model.logits(features, CLASSIFIER.format(index))
            unsure = surest <= earlier.amax(dim=1) + self.margin
            consistency = consistency + self_distillation(earlier, unsure, self.smoothing) / current
        num_earlier = sum(len(each) for each in self.state["classes"][:-1])
        keys = [-1] * num_earlier + list(classes)  # A class may have come before: its last key.
        nearest = cross_entropy(self.cosines(model, batch.inputs), batch.labels, columns=keys)
        generator = generator_of(model.seed, "cprompt", self.state["num_steps"])
        drawn = torch.randint(current + 1, (len(batch),), generator=generator).to(own.device)
        features = self.features(model, batch.inputs, drawn)
        by_classifier = model.logits(features, CLASSIFIER.format(current))
        robust = cross_entropy(by_classifier, batch.labels, columns=classes)
        loss = auxiliary + self.consistency * consistency + nearest + robust
        return StepOutput(loss, {"consistency": consistency.detach()})

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Other prompts in the next step."""
        self.state["num_steps"] += 1

    def cosines(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """cos(q(x), key) with every key so far, [N, keys]."""
        query = F.normalize(model.frozen_features(inputs), dim=1)
        return query @ F.normalize(self._of_all(model, "keys"), dim=1).T

    def route(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """The task of the nearest key."""
        sizes = torch.tensor([len(each) for each in self.state["classes"]])
        task_of = torch.arange(len(sizes)).repeat_interleave(sizes)
        nearest = self.cosines(model, inputs).argmax(dim=1)
        return task_of.to(nearest.device)[nearest]

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits of all classifiers under the prompts of the nearest key's task; of the task's own
        under its prompts where it is given."""
        known = range(len(self.state["classes"]))
        if task is not None and task.index in known:
            known = range(task.index, task.index + 1)
            chosen = torch.full((len(next(iter(inputs.values()))),), task.index)
        else:
            chosen = self.route(model, inputs)
        features = self.features(model, inputs, chosen)
        width = model.num_classes()
        answers = [
            among(model.logits(features, CLASSIFIER.format(i)), self.state["classes"][i], width)
            for i in known
        ]
        return torch.stack(answers).amax(dim=0)

    def _of_all(self, model: AdaptedModel, name: str) -> Tensor:
        """A tensor of every task, one after the other."""
        groups = [TASK.format(index) for index in range(len(self.state["classes"]))]
        return torch.cat([model.adapters[group].tensors[name] for group in groups])


def self_distillation(logits: Tensor, softened: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of softmax(logits [N, C]) with its own detached softmax, at `temperature`
    in the rows that bool [N] says and at 1 in others (CPrompt's classifier consistency)."""
    divisor = torch.where(softened, temperature, 1.0)[:, None]
    target = (logits / divisor).softmax(dim=1).detach()
    return -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
