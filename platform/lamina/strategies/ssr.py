"""SSR (Huang et al., 2024): self-synthesised rehearsal, the frozen model writes prompts by example,
the latest model answers them, and the most various of these rows are replayed.

Trained: the job's adapter. Remembered: the exemplars of the job's memory, a few of which are the
examples; and what is written from them in the first step of a task: prompts by the frozen model,
which has read examples of one earlier task, and the latest model's answers to them. Of those that
lie in one cluster of k-means on normalised frozen features the nearest to its centre are kept, as
many as its share. Differs from the authors' code: prompts are written behind the examples alone,
each ending in the end token, without a word of instruction; rows without an end are dropped, and
rows that repeat an example stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters import kind_names
from lamina.adapters.model import AdaptedModel
from lamina.adapters.written_rows import check_decoder_alone, ended, room_of
from lamina.backbones.decoding import Drawn
from lamina.checks import check_fields
from lamina.core import Batch, StepOutput, Summary, Task, generator_of
from lamina.losses import cross_entropy
from lamina.memory.clusters import k_means
from lamina.memory.memory import Replay
from lamina.memory.token_rows import drawn, put_together, remembered, taken_apart
from lamina.registry import only_where
from lamina.strategies.base import Strategy


@dataclass
class SSR(Strategy):
    """Cross-entropy on the batch and on rows that the model wrote of earlier tasks."""

    examples: int = 2
    """Examples that the frozen model reads before it writes (2 in the authors' scripts)."""
    attempts: int = 60
    """Prompts that are begun for a task."""
    kept: int = 20
    """Written rows that are kept of them (200 in the authors' scripts)."""
    clusters: int = 20
    """Clusters that these are taken from."""
    replay_size: int = 8
    """Written rows that join each batch."""
    top_k: int = 20
    """Tokens of a prompt that the next one is drawn among; answers take the likeliest."""
    longest: int = 64
    """Tokens of a written prompt, and of its answer, at most."""

    family = "replay"
    paper = (
        "Mitigating Catastrophic Forgetting in Large Language Models with Self-Synthesized "
        "Rehearsal"
    )
    year = 2024
    answers = ("tokens",)
    adapters = tuple(kind_names())
    needs_memory = True
    matters_when = only_where(
        examples="replay_size",
        attempts="replay_size",
        kept="replay_size",
        clusters="replay_size",
        top_k="replay_size",
        longest="replay_size",
    )
    from_second_task = (
        "examples",
        "attempts",
        "kept",
        "clusters",
        "replay_size",
        "top_k",
        "longest",
    )

    def __post_init__(self) -> None:
        check_fields(
            "strategy",
            self,
            not_negative=["replay_size"],
            positive=["examples", "attempts", "kept", "clusters", "top_k", "longest"],
        )

    def setup(self, model: AdaptedModel) -> None:
        """The adapter. Raises InputError for a model with an encoder."""
        check_decoder_alone(model, "ssr")
        model.add()

    def begin_task(self, model: AdaptedModel, task: Task, preview: Summary | None) -> None:
        """What was written of earlier tasks before is of no use any more: it is written anew, of
        all of them."""
        self.state.pop("written", None)
        self.state["num_steps"] = 0

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(y | x) over rows of the task and written ones alike."""
        assert batch.task is not None
        if "written" not in self.state and self.replay_size > 0 and len(replay) > 0:
            examples = replay.everything("examples")
            assert examples is not None
            self.state["written"] = self._write(model, examples, batch.task.index)
        generator = generator_of(model.seed, "ssr", "draw", self.state["num_steps"])
        written = replay.share(drawn(self.state.get("written", {}), self.replay_size, generator))
        if written is not None:
            batch = Batch.cat([batch, written])
        return StepOutput(cross_entropy(model(batch.inputs).logits, batch.labels), rows=batch)

    @torch.no_grad()
    def _write(self, model: AdaptedModel, examples: Batch, index: int) -> dict[str, Tensor]:
        generator = generator_of(model.seed, "ssr", index)
        shots = self.few_shots(model, examples, generator)
        choose = Drawn(generator, top_k=self.top_k)
        prompts = [
            each[:-1]
            for each in ended(model, shots, self.longest, choose, adapters=[])
            if len(each) > 1
        ]
        answers = ended(model, prompts, self.longest) if prompts else []
        pairs = [pair for pair in zip(prompts, answers, strict=True) if len(pair[1]) > 1]
        if not pairs:
            return {}
        features = F.normalize(model.frozen_features(put_together(pairs).inputs), dim=1)
        chosen = various(features, self.clusters, self.kept, generator)
        rows = put_together([pairs[row] for row in chosen], model.backbone.inputs.max_length)
        return remembered(rows)

    def few_shots(
        self, model: AdaptedModel, examples: Batch, generator: torch.Generator
    ) -> list[Tensor]:
        """What the frozen model reads before it writes a prompt: examples of one earlier task,
        prompt, end token, answer and end token each. Of what leaves no room for a prompt the
        beginning is cut."""
        pairs, tasks = taken_apart(examples), examples.extras["task"]
        end = pairs[0][0].new_tensor([model.backbone.inputs.end_token])
        room = max(room_of(model) - self.longest, 1)
        shots = []
        for _ in range(self.attempts):
            first = int(torch.randint(len(pairs), (1,), generator=generator))
            alike = (tasks == tasks[first]).nonzero()[:, 0].cpu()
            order = torch.randperm(len(alike), generator=generator)[: self.examples]
            read = [torch.cat([pairs[row][0], end, pairs[row][1]]) for row in alike[order].tolist()]
            shots.append(torch.cat(read)[-room:])
        return shots

    def annotate(self, model: AdaptedModel, batch: Batch) -> Mapping[str, Tensor]:
        """The index of the task that an exemplar comes from."""
        assert batch.task is not None
        return {"task": torch.full((len(batch),), batch.task.index)}

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Count the step, so that the next draws others."""
        self.state["num_steps"] += 1


def various(features: Tensor, clusters: int, number: int, generator: torch.Generator) -> list[int]:
    """Rows of [n, dim] by their numbers: of each cluster of k-means, the nearest to its centre, as
    many as its share of `number`."""
    centres = k_means(features, min(clusters, len(features)), generator)
    distances, owner = torch.cdist(features, centres).min(dim=1)
    chosen: list[int] = []
    for cluster in range(len(centres)):
        own = (owner == cluster).nonzero()[:, 0]
        wanted = round(min(number, len(features)) * len(own) / len(features))
        chosen += own[distances[own].argsort(stable=True)[:wanted]].tolist()
    return chosen
