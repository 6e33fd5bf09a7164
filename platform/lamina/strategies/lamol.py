"""LAMOL (Sun et al., 2020): a language model that learns to write its tasks' rows while it learns
to answer them, and replays what it writes.

Trained: the job's adapter. Remembered: nothing but what the model itself writes when the next task
begins: rows of earlier tasks, as many as a share of the task's. A row is written as the end token,
a prompt, the end token, an answer and the end token; by a model with an encoder, as a prompt that
answers the end token, and its answer. Differs from the paper: its special tokens
would need embeddings of their own, and the backbone is frozen, so the end token stands for all of
them and tells no task; rows without an end are dropped, not written anew; special tokens weigh what
others do.
"""

from dataclasses import dataclass

import torch

from lamina.adapters import kind_names
from lamina.adapters.model import AdaptedModel
from lamina.adapters.written_rows import rows_to_replay, whole_rows
from lamina.backbones.decoding import Drawn
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.memory import Replay
from lamina.memory.token_rows import drawn
from lamina.registry import only_where
from lamina.strategies.base import Strategy


@dataclass
class LAMOL(Strategy):
    """Cross-entropy of answers, and of whole rows, over rows of the task and written ones."""

    writing: float = 0.25
    """lambda, the weight of whole rows."""
    share: float = 0.2
    """gamma, written rows as a share of the task's (0.05 to 0.2 in the paper)."""
    top_k: int = 20
    """Tokens that the next one is drawn among."""
    longest: int = 64
    """Tokens of a written prompt, and of its answer, at most."""

    family = "replay"
    paper = "LAMOL: LAnguage MOdeling for Lifelong Language Learning"
    year = 2020
    answers = ("tokens",)
    adapters = tuple(kind_names())
    matters_when = only_where(top_k="share", longest="share")
    from_second_task = ("share", "top_k", "longest")

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["writing", "share"],
            positive=["top_k", "longest"],
        )

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary:
        """How many rows the task has."""
        return Summary({"count": torch.tensor(float(len(batch)), device=model.backbone.device)})

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Write rows of earlier tasks, with what the model is now."""
        assert preview is not None
        self.state["num_steps"] = 0
        number = round(self.share * float(preview["count"]))
        if task.index == 0 or number == 0:
            return
        choose = Drawn(generator_of(model.seed, "lamol", task.index), top_k=self.top_k)
        self.state["written"] = rows_to_replay(model, number, self.longest, choose)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(y | x) + lambda CE(x, y), over rows of the task and, from the second on, written
        ones, as a share gamma of the batch."""
        wanted = max(1, round(self.share * replay.batch_size(batch))) if self.share > 0 else 0
        generator = generator_of(model.seed, "lamol", "draw", self.state["num_steps"])
        written = replay.share(drawn(self.state.get("written", {}), wanted, generator))
        if written is not None:
            batch = Batch.cat([batch, written])
        loss = cross_entropy(model(batch.inputs).logits, batch.labels)
        whole = whole_rows(model, batch)
        read = cross_entropy(model(whole.inputs).logits, whole.labels)
        read = read * replay.balance(whole.num_terms(), batch)
        return StepOutput(loss + self.writing * read, {"whole_rows": read.detach()}, rows=batch)

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Count the step, so that the next draws others."""
        self.state["num_steps"] += 1
