"""L2P (Wang et al., 2022): a pool of prompts, from which every input picks its own by similarity to
learned keys.

Trained: keys [pool_size, dim] and prompts [pool_size, length, dim], shared by all tasks, and the
head, which reads the mean of the prompts' output tokens. The query is the feature of the frozen
backbone. Where answers are tokens, the language model's own head reads the answer behind the
prompts, and the query is of what is asked alone. Remembered: nothing else. Differs from the public
code: each row picks by itself, in training and at test; there, a batch votes, which tells the test
batch's task (a known leak worth over 20 points). The query is the backbone's own pooled feature
(the CLS in a vision transformer as in the paper, the mean in a sentence encoder). The code's
learning rate is for batches of 256 and is scaled by batch / 256; here a job's rate is what it says.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lamina.adapters.model import AdaptedModel
from lamina.adapters.prompt_pool import add_pool, check_pool, pick, prompted_logits
from lamina.core import Batch, StepOutput, Task
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.strategies.base import NO_ADAPTER, Strategy


@dataclass
class L2P(Strategy):
    """Cross-entropy over the task's classes, and a pull of the picked keys towards their
    queries.
    """

    pool_size: int = 10
    """M, prompts in the pool."""
    length: int = 5
    """L_p, tokens of a prompt."""
    top_k: int = 5
    """N, prompts that an input picks."""
    pull: float = 0.5
    """lambda, the weight of the keys' similarity."""

    family = "prompt"
    paper = "Learning to Prompt for Continual Learning"
    year = 2022
    answers = ("classes", "tokens")
    scenarios = (*Strategy.scenarios, "task_free")
    adapters = (NO_ADAPTER,)

    def __post_init__(self) -> None:
        check_pool(self.pool_size, self.length, self.top_k)

    def setup(self, model: AdaptedModel) -> None:
        """The pool."""
        add_pool(model, self.pool_size, self.length)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(task's classes, or all where no task is told) - lambda * mean over inputs of the
        sum of cos(q(x), k) over the picked keys."""
        picked, similarity = self.pick(model, batch.inputs)
        logits = self.logits(model, batch.inputs, picked)
        classes = batch.task.classes if batch.task is not None else None
        loss = cross_entropy(logits, batch.labels, classes=classes)
        pulled = similarity.sum(dim=1).mean()
        return StepOutput(loss - self.pull * pulled, {"key_similarity": pulled.detach()})

    def pick(self, model: AdaptedModel, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The top_k prompts of each input, int64 [N, top_k], and their keys' cosine similarities
        [N, top_k]."""
        return pick(model, model.frozen_features(inputs), self.top_k)

    def logits(self, model: AdaptedModel, inputs: Mapping[str, Tensor], picked: Tensor) -> Tensor:
        """Logits with the picked prompts [N, top_k] before each input."""
        return prompted_logits(model, inputs, picked)

    def predict(
        self, model: AdaptedModel, inputs: Mapping[str, Tensor], task: Task | None
    ) -> Tensor:
        """Logits under the prompts that each input picks."""
        picked, _ = self.pick(model, inputs)
        return self.logits(model, inputs, picked)
