"""LFPT5 (Qin and Joty, 2022): one soft prompt learns task after task, to answer and to write their
rows, and is held to what the prompt before it said on rows that it wrote.

Trained: the prompt (of the job's kind), and nothing else. Remembered: the prompt as it was before
the task, and what it wrote then: rows of earlier tasks, as many as a share of the task's. Differs
from the paper: T5 need not be adapted to language modelling first, and may be any causal language
model; the token that asks for a row is the end token, as nothing of the backbone is learned
(`lamol` says more); T5 writes a prompt alone, and answers it as it does any other; of a new kind of
task it takes a prompt of its own; the divergence is a mean over tokens, a sum in the authors' code,
and its weight is therefore another.
"""

from dataclasses import dataclass

import torch

from lamina.adapters.model import MAIN, AdaptedModel
from lamina.adapters.written_rows import rows_to_replay, whole_rows
from lamina.backbones.decoding import Drawn
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import answered, cross_entropy, distillation
from lamina.memory.memory import Replay
from lamina.memory.token_rows import drawn
from lamina.registry import only_where
from lamina.strategies.base import Strategy

BEFORE = "before"


@dataclass
class LFPT5(Strategy):
    """Cross-entropy of answers and of whole rows, and written rows held to the last prompt's
    answers."""

    writing: float = 0.25
    """lambda_lm, the weight of whole rows."""
    consistency: float = 1.0
    """lambda_kl, the weight of the divergence (0.01 to 0.05 of sums over tokens and vocabulary in
    the authors' code, the rest for the other losses)."""
    share: float = 0.2
    """Written rows as a share of the task's."""
    top_k: int = 20
    """Tokens of a written row that the next one is drawn among."""
    longest: int = 64
    """Tokens of a written prompt, and of its answer, at most."""

    family = "prompt"
    paper = (
        "LFPT5: A Unified Framework for Lifelong Few-shot Language Learning Based on Prompt Tuning "
        "of T5"
    )
    year = 2022
    answers = ("tokens",)
    adapters = ("prompt", "prefix")
    matters_when = only_where(consistency="share", top_k="share", longest="share")
    from_second_task = ("consistency", "share", "top_k", "longest")

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["writing", "consistency", "share"],
            positive=["top_k", "longest"],
        )

    def preview(self, model: AdaptedModel, batch: Batch) -> Summary:
        """How many rows the task has."""
        return Summary({"count": torch.tensor(float(len(batch)), device=model.backbone.device)})

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """Keep the prompt as it is, and let it write rows of earlier tasks."""
        assert preview is not None
        self.state["num_steps"] = 0
        number = round(self.share * float(preview["count"]))
        if task.index == 0 or number == 0:
            return
        model.copy(MAIN, BEFORE)
        choose = Drawn(generator_of(model.seed, "lfpt5", task.index), top_k=self.top_k)
        self.state["written"] = rows_to_replay(model, number, self.longest, choose)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(y | x) + lambda_lm CE(x, y) over rows of the task and written ones, as a share of
        the batch, + lambda_kl KL(prompt before || prompt) on the answers of the written."""
        wanted = max(1, round(self.share * replay.batch_size(batch))) if self.share > 0 else 0
        generator = generator_of(model.seed, "lfpt5", "draw", self.state["num_steps"])
        written = replay.share(drawn(self.state.get("written", {}), wanted, generator))
        joined = batch if written is None else Batch.cat([batch, written])
        logits = model(joined.inputs).logits
        whole = whole_rows(model, joined)
        read = cross_entropy(model(whole.inputs).logits, whole.labels)
        read = read * replay.balance(whole.num_terms(), joined)
        loss = cross_entropy(logits, joined.labels) + self.writing * read
        if written is None:
            return StepOutput(loss, rows=joined)
        with torch.no_grad():
            before = model(written.inputs, adapters=[BEFORE]).logits
        own = logits[len(batch) :, : before.shape[1]]
        apart = distillation(answered(own, written.labels), answered(before, written.labels), 1.0)
        apart = apart * replay.balance(written.num_terms(), joined)
        loss = loss + self.consistency * apart
        return StepOutput(loss, {"divergence": apart.detach()}, rows=joined)

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Count the step, so that the next draws other rows."""
        self.state["num_steps"] += 1
