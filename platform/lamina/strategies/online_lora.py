"""Online-LoRA (Wei et al., 2025): when the loss on the stream settles, the LoRA is merged into the
weights and a new one begins; no task boundary is needed.

Trained: one LoRA at a time and the head. Remembered: the sum of the LoRAs before it, the rows of
highest loss, the importance of the LoRA's entries to those rows. Differs from the authors' code:
what is merged is B A (there the factors are summed); after it only B is zero (there A too, and
neither gets a gradient); no merge waits for the second task. Hard rows are single rows (there
batches), and the loss watched has two terms, so its threshold is 2.4 where theirs of five has 6.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.adapters.kinds.lora import concatenate
from lamina.adapters.model import MAIN, AdaptedModel, per_sample_gradients
from lamina.checks import check_fields
from lamina.core import IGNORED, KEYS, Batch, StepOutput, Summary, generator_of
from lamina.losses import answer_lengths, row_losses
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy

PAST = "past"
INPUT = "input."


@dataclass
class OnlineLoRA(Strategy):
    """Cross-entropy on the batch and on the hard rows, with a penalty on entries that mattered."""

    strength: float = 2000.0
    """lambda, the weight of the penalty."""
    hard_size: int = 4
    """Rows of highest loss that are kept."""
    window: int = 5
    """Steps over which the loss is watched."""
    mean_threshold: float = 2.4
    """The loss has settled where its mean over the window is below this ..."""
    variance_threshold: float = 0.1
    """... and its variance below this."""

    family = "lora"
    paper = "Online-LoRA: Task-Free Online Continual Learning via Low Rank Adaptation"
    year = 2025
    answers = ("classes", "tokens")
    scenarios = (*Strategy.scenarios, "task_free")
    adapters = ("lora",)

    def __post_init__(self) -> None:
        check_fields("strategy", self, not_negative=["strength"], positive=["hard_size", "window"])

    def setup(self, model: AdaptedModel) -> None:
        """The first LoRA; nothing has settled yet."""
        model.add()
        tensors = model.adapters[MAIN].tensors
        importance = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
        self.state.update(num_merges=0, losses=[], peak=0.0, importance=importance)

    def step(self, model: AdaptedModel, batch: Batch, replay: Replay) -> StepOutput:
        """L = CE(batch) + CE(hard rows) + lambda / 2 sum Omega phi^2, phi the current LoRA."""
        hard = self._hard_rows()
        number = len(batch)
        joined = batch if hard is None else Batch.cat([batch, hard])
        losses = row_losses(model(joined.inputs).logits, joined.labels)
        lengths = answer_lengths(joined.labels)
        loss = losses[:number].sum() / lengths[:number].sum()
        if hard is not None:
            loss = loss + losses[number:].sum() / lengths[number:].sum()
        tensors = model.adapters[MAIN].tensors
        importance = self.state["importance"]
        paid = torch.stack(
            [(importance[name] * tensors[name] ** 2).sum() for name in tensors]
        ).sum()
        seen = self._seen(model, batch, (losses / lengths).detach())
        return StepOutput(loss + self.strength / 2 * paid, {"penalty": paid.detach()}, seen=seen)

    def after_step(self, model: AdaptedModel, seen: Summary | None) -> None:
        """Choose the hard rows; watch the loss, and renew where it has settled after a new peak."""
        assert seen is not None
        hard_losses = seen["hard"] / seen["workers"]
        highest = torch.cat([seen["loss"], hard_losses]).argsort(descending=True, stable=True)
        past = self.state.get("hard", {})
        kept = highest[: self.hard_size]
        self.state["hard"] = {
            name: torch.cat([value, past.get(name, value[:0])])[kept]
            for name, value in seen.rows.items()
            if name != "loss"
        }
        loss = seen["total"] / seen["number"] + hard_losses.sum() / max(len(hard_losses), 1)
        losses = torch.tensor([*self.state["losses"], float(loss)][-self.window :])
        self.state["losses"] = losses.tolist()
        mean = float(losses.mean())
        variance = float(losses.var(correction=0))
        if mean > self.state["peak"]:
            self.state["peak"] = 0.0
        low = mean < self.mean_threshold and variance < self.variance_threshold
        if low and self.state["peak"] == 0.0 and len(losses) == self.window:
            self.state["peak"] = mean + variance**0.5
            self._renew(model)

    def _renew(self, model: AdaptedModel) -> None:
        """W_0 <- W_0 + B A; a new A, B = 0; Omega averages the hard rows' squared gradients."""
        hard = self._hard_rows()
        main = model.adapters[MAIN]
        assert hard is not None
        assert main.kind is not None
        self.state["num_merges"] += 1
        gradients = per_sample_gradients(
            model,
            hard.inputs,
            lambda logits: row_losses(logits, likeliest(logits, hard.labels)),
        )
        share = 1 / self.state["num_merges"]
        self.state["importance"] = {
            name: share * gradients[f"{MAIN}.{name}"].square().mean(dim=0) + (1 - share) * past
            for name, past in self.state["importance"].items()
        }
        current = {name: tensor.detach().clone() for name, tensor in main.tensors.items()}
        if PAST in model.adapters:
            current = concatenate(model.adapters[PAST].tensors, current)
        model.keep(PAST, main.kind, current)
        generator = generator_of(model.seed, "online_lora", self.state["num_merges"])
        with torch.no_grad():
            for name, fresh in main.kind.initialise(model.backbone, generator).items():
                main.tensors[name].copy_(fresh)

    def _hard_rows(self) -> Batch | None:
        """The rows of highest loss; none before the first step."""
        if "hard" not in self.state:
            return None
        rows = self.state["hard"]
        inputs = {key.removeprefix(INPUT): rows[key] for key in rows if key.startswith(INPUT)}
        return Batch(inputs, rows["label"], torch.zeros(len(rows["label"]))).trimmed()

    def _seen(self, model: AdaptedModel, batch: Batch, losses: Tensor) -> Summary:
        """Losses of the batch and of the hard rows after it; the batch's rows of highest loss, all
        texts of one width, so that those of any step and worker go together."""
        number = len(batch)
        width = model.backbone.inputs.max_length
        top = losses[:number].topk(min(self.hard_size, number)).indices
        inputs = {INPUT + key: each[top] for key, each in batch.inputs.items() if key != KEYS}
        labels = batch.labels[top]
        if width is not None:
            inputs = {key: widened(each, width, 0) for key, each in inputs.items()}
            labels = widened(labels, width, IGNORED)
        return Summary(
            {
                "total": losses[:number].sum(),
                "number": losses.new_tensor(float(number)),
                "hard": losses[number:],
                "workers": losses.new_tensor(1.0),
            },
            {"loss": losses[top], "label": labels, **inputs},
        )


def likeliest(logits: Tensor, labels: Tensor) -> Tensor:
    """What is predicted instead of `labels` [N] or [N, A], where they count."""
    return logits.argmax(dim=-1).where(labels != IGNORED, labels)


def widened(tensor: Tensor, width: int, padding: int) -> Tensor:
    """A matrix [n, d] with `width` columns, those that are missing filled on the right; what has
    one number for each row as it is."""
    missing = (0, width - tensor.shape[1]) if tensor.dim() == 2 else ()
    return F.pad(tensor, missing, value=padding) if missing else tensor
