"""A stepper: the optimiser over what a model trains at the moment, and one step of it.

Weight decay is PyTorch's, with one exception: rows of heads and of a strategy's free tensors that
no loss has reached since the optimiser began keep their values. A masked loss leaves the head's
rows of old classes without a gradient, and methods that promise that such rows stay mean it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import Tensors
from lamina.adapters.model import AdaptedModel
from lamina.core import Batch
from lamina.losses import weighing
from lamina.memory.memory import Replay
from lamina.strategies.base import Strategy
from lamina.training.settings import TrainingSettings, make_optimizer, make_schedule
from lamina.training.workers import Workers, added, share_of, weight_of


class Stepper:
    """Lives as long as a phase of a task (in a task-free stream, as long as the stream)."""

    def __init__(
        self,
        strategy: Strategy,
        model: AdaptedModel,
        settings: TrainingSettings,
        num_steps: int,
        workers: Workers,
        class_weights: Tensor | None = None,
    ) -> None:
        """`class_weights`: float32 [classes], see `lamina.losses.weighing`."""
        self.strategy = strategy
        self.model = model
        self.settings = settings
        self.workers = workers
        self._class_weights = class_weights
        self.parameters = model.parameters()
        groups: dict[float, list[Tensor]] = {}
        for name, tensor in self.parameters.items():
            groups.setdefault(strategy.rate(name), []).append(tensor)
        self.optimizer = make_optimizer(
            settings,
            [
                {"params": tensors, "lr": settings.learning_rate * rate}
                for rate, tensors in groups.items()
            ],
        )
        self.schedule = make_schedule(settings, self.optimizer, num_steps)
        self._unreached: dict[str, Tensor] = {}
        """Rows, bool [n], that have had no gradient yet and so do not decay."""
        if settings.weight_decay > 0:
            self._unreached = {
                f"{group}.{name}": torch.ones(
                    tensor.shape[:1], dtype=torch.bool, device=tensor.device
                )
                for group, adapter in model.adapters.items()
                if adapter.kind is None
                for name, tensor in adapter.tensors.items()
                if tensor.requires_grad
            }

    def step(self, batch: Batch, replay: Replay) -> Tensor:
        """Descend once on a batch, of which this worker takes its share. Returns the detached mean
        loss over all workers' rows."""
        share = share_of(batch, self.workers)
        moved = share.trimmed().to(self.model.backbone.device)
        with weighing(self._class_weights):
            output = self.strategy.step(self.model, moved, replay)
        weight = weight_of(moved if output.rows is None else output.rows, self.workers)
        references = [self._gradients(each, weight, keep=True) for each in output.references]
        self.descend(self._gradients(output.loss, weight, keep=False), references)
        seen = None if output.seen is None else added(output.seen, self.workers)
        self.strategy.after_step(self.model, seen)
        return self.workers.add([output.loss.detach() * weight])[0]

    def descend(self, gradients: Tensors, references: Sequence[Tensors] = ()) -> None:
        """Take an optimiser step with these gradients, after the strategy has adjusted them."""
        adjusted = self.strategy.adjust(self.model, gradients, references)
        for name, tensor in self.parameters.items():
            tensor.grad = adjusted.get(name)
        if self.settings.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        kept = self._without_gradient()
        self.optimizer.step()
        for name, old in kept.items():
            self._put_back(name, old)
        self.schedule.step()

    def _without_gradient(self) -> Tensors:
        """Copies, by name, of tensors with rows that no gradient has reached, from before a
        step."""
        kept = {}
        for name, unreached in self._unreached.items():
            tensor = self.parameters[name]
            if tensor.grad is not None:
                still = tensor.grad == 0
                unreached &= still.flatten(1).all(dim=1) if tensor.dim() > 1 else still
                kept[name] = tensor.detach().clone()
        return kept

    @torch.no_grad()
    def _put_back(self, name: str, old: Tensor) -> None:
        """Undo what weight decay did to the rows that no gradient has reached."""
        tensor, unreached = self.parameters[name], self._unreached[name]
        rows = unreached.reshape(-1, *[1] * (tensor.dim() - 1)) if tensor.dim() > 0 else unreached
        tensor.copy_(torch.where(rows, old, tensor))

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state of each tensor, by the tensor's name."""
        return {
            "unreached": dict(self._unreached),
            "optimizer": {
                name: dict(self.optimizer.state[tensor])
                for name, tensor in self.parameters.items()
                if tensor in self.optimizer.state
            },
            "steps": self.schedule.last_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name, remembered in state["optimizer"].items():
            self.optimizer.state[self.parameters[name]] = dict(remembered)
        self._unreached.update(state["unreached"])
        self.schedule.last_epoch = state["steps"]
        for group, factor in zip(
            self.optimizer.param_groups, self.schedule.lr_lambdas, strict=True
        ):
            group["lr"] = group["initial_lr"] * factor(state["steps"])

    def _gradients(self, loss: Tensor, weight: float, *, keep: bool) -> Tensors:
        """The gradient of a loss by the names of what is trained, summed over workers by their
        shares; without those that it does not depend on."""
        tensors = list(self.parameters.values())
        found = self.model.backbone.gradients(loss, tensors, keep=keep)
        present = {
            name: gradient
            for name, gradient in zip(self.parameters, found, strict=True)
            if gradient is not None
        }
        if self.workers.size == 1:
            return present
        summed = self.workers.add([gradient * weight for gradient in present.values()])
        return dict(zip(present, summed, strict=True))
