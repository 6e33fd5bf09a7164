"""The adapted model: one trial's trainable tensors, laid over a backbone that it shares with
others."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.base import AdapterKind, Tensors, grouped_linear, uniform
from lamina.backbones.backbone import Backbone
from lamina.backbones.decoding import Choice
from lamina.backbones.overlay import Overlay, Patch, Site
from lamina.core import DECODED_MASK, generator_of

HEAD = "head"
MAIN = "main"


@dataclass
class Adapter:
    """Named tensors, with the kind that lays them over the backbone. `kind` is None for tensors
    that a strategy uses by itself."""

    kind: AdapterKind | None
    tensors: dict[str, Tensor]

    @property
    def trainable(self) -> bool:
        """Whether an optimiser sees them."""
        return any(tensor.requires_grad for tensor in self.tensors.values())

    def num_parameters(self) -> int:
        """How many numbers it holds."""
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass(frozen=True)
class Output:
    """The output of an adapted model for N inputs."""

    features: Tensor
    """float32 [N, dim]."""
    logits: Tensor
    """float32 [N, classes seen so far]; or [N, A, V] of the tokens of answers."""


class AdaptedModel:
    """A backbone with adapters and heads resident on it.

    `adapters` maps names to everything a trial may train: adapters, heads, and free tensors of a
    strategy (a prompt pool's keys, say). `active` are the adapters laid over the backbone by
    default, in order. A head is two tensors, `weight` [classes, dim] and `bias` [classes], and
    grows as classes appear.
    """

    def __init__(self, backbone: Backbone, kind: AdapterKind | None, seed: int) -> None:
        self.backbone = backbone
        self.kind = kind
        self.seed = seed
        self.adapters: dict[str, Adapter] = {}
        self.active: list[str] = []
        self._dropout: torch.Generator | None = None
        self.grow_head(0)

    def add(self, name: str = MAIN, kind: AdapterKind | None = None) -> Adapter | None:
        """Attach a new, trainable adapter and lay it over the backbone from now on.

        `kind` is the job's by default; a job without adapters attaches none. Its first values
        depend on the trial's seed and on `name`.
        """
        kind = kind or self.kind
        if kind is None:
            return None
        generator = generator_of(self.seed, "adapter", name)
        adapter = self._put(name, kind, kind.initialise(self.backbone, generator), trainable=True)
        self.active.append(name)
        return adapter

    def add_tensors(self, name: str, tensors: Tensors) -> Adapter:
        """Keep free, trainable tensors that the strategy itself lays over the backbone."""
        return self._put(name, None, tensors, trainable=True)

    def copy(self, source: str, target: str) -> Adapter:
        """A frozen copy of an adapter or head (a teacher), resident but not active."""
        original = self.adapters[source]
        tensors = {name: tensor.detach().clone() for name, tensor in original.tensors.items()}
        return self._put(target, original.kind, tensors, trainable=False)

    def keep(self, name: str, kind: AdapterKind | None, tensors: Tensors) -> Adapter:
        """Attach frozen tensors of a kind, and lay them over the backbone before the trained
        adapters."""
        if name not in self.active:
            self.active.insert(0, name)
        return self._put(name, kind, tensors, trainable=False)

    def freeze(self, *names: str) -> None:
        """Stop training these adapters or heads."""
        self._train(names, wanted=False)

    def unfreeze(self, *names: str) -> None:
        """Train these adapters or heads (again)."""
        self._train(names, wanted=True)

    def remove(self, name: str) -> Adapter:
        """Take an adapter away, and return it."""
        if name in self.active:
            self.active.remove(name)
        return self.adapters.pop(name)

    def grow_head(self, num_classes: int, name: str = HEAD) -> None:
        """Make a head at least `num_classes` wide. Old rows stay; new ones start as in
        nn.Linear.
        """
        old = self.adapters[name].tensors if name in self.adapters else self._empty_head()
        missing = num_classes - len(old["bias"])
        if missing < 0 or (missing == 0 and name in self.adapters):
            return
        generator = generator_of(self.seed, name, num_classes)
        bound = self.backbone.dim**-0.5
        new = {
            "weight": uniform((missing, self.backbone.dim), bound, generator),
            "bias": uniform((missing,), bound, generator),
        }
        grown = {key: torch.cat([old[key].detach(), new[key].to(old[key].device)]) for key in old}
        self._put(name, None, grown, trainable=True)

    def num_classes(self, name: str = HEAD) -> int:
        """The number of classes of a head."""
        return len(self.adapters[name].tensors["bias"])

    def parameters(self) -> dict[str, Tensor]:
        """The trainable tensors, by name (`main.encoder.layer.0...lora_A.weight`,
        `head.weight`)."""
        return {
            f"{group}.{name}": tensor
            for group, adapter in self.adapters.items()
            for name, tensor in adapter.tensors.items()
            # Where answers are tokens, the head has no rows.
            if tensor.requires_grad and tensor.numel()
        }

    def __call__(
        self,
        inputs: Mapping[str, Tensor],
        adapters: Sequence[str] | None = None,
        head: str = HEAD,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Output:
        """Features and logits of N inputs under the given adapters (default: the active ones).

        `parameters` stands in for tensors of the same names, shaped alike or with a leading K (see
        AdapterKind).
        """
        return self.under(inputs, self.overlay(adapters, parameters), head, parameters)

    def under(
        self,
        inputs: Mapping[str, Tensor],
        overlay: Overlay,
        head: str = HEAD,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Output:
        """Features and logits of N inputs under an overlay that a strategy made itself."""
        hidden = self.backbone(inputs, overlay)
        if hidden.answers is not None:
            return Output(
                hidden.features, self.backbone.language_head.of_answers(hidden.answers, inputs)
            )
        return Output(hidden.features, self.logits(hidden.features, head, parameters))

    def generate(
        self,
        inputs: Mapping[str, Tensor],
        max_new_tokens: int,
        adapters: Sequence[str] | None = None,
        choose: Choice | None = None,
    ) -> Tensor:
        """Tokens generated behind the prompts of N inputs under the given adapters (default: the
        active ones), as `Backbone.generate`."""
        return self.backbone.generate(
            inputs, self.overlay(adapters), max_new_tokens=max_new_tokens, choose=choose
        )

    def overlay(
        self,
        adapters: Sequence[str] | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Overlay:
        """The overlay of the given adapters (default: the active ones)."""
        overlay = Overlay()
        for name in self.active if adapters is None else adapters:
            kind = self.adapters[name].kind
            assert kind is not None, (
                f"{name} holds free tensors: its strategy lays them over the backbone"
            )
            overlay = overlay | kind.overlay(
                self._tensors(name, parameters), self.backbone, self._dropout
            )
        return overlay

    def logits(
        self, features: Tensor, head: str = HEAD, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """A head's logits [N, classes] of features [N, dim]."""
        tensors = self._tensors(head, parameters)
        return grouped_linear(features, tensors["weight"], tensors["bias"])

    @torch.no_grad()
    def frozen_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features [N, dim] of the backbone alone: what a prompt pool is queried with."""
        return self.backbone.frozen_features(inputs)

    @torch.no_grad()
    def inputs_at(
        self,
        inputs: Mapping[str, Tensor],
        modules: Sequence[str],
        adapters: Sequence[str] | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The inputs of the named linear modules for N inputs, float32 [tokens, d_in] each; without
        padding, with prompts."""
        seen: dict[str, Tensor] = {}

        def reader(name: str) -> Patch:
            def read(x: Tensor, y: Tensor) -> Tensor:
                seen[name] = x
                return y

            return read

        reading = Overlay(patches={Site(name, name): [reader(name)] for name in modules})
        self.backbone(inputs, self.overlay(adapters, parameters) | reading)
        return {
            name: _own_tokens(x, self.mask_of(inputs, name)).float() for name, x in seen.items()
        }

    def mask_of(self, inputs: Mapping[str, Tensor], module: str) -> Tensor | None:
        """1 where a token that a module inside a layer reads is no padding, [N, S]; None where none
        is."""
        of_answers = self.backbone.architecture.reads_answers(module)
        return inputs.get(DECODED_MASK if of_answers else "attention_mask")

    @contextmanager
    def dropping(self, generator: torch.Generator | None) -> Iterator[None]:
        """Let dropout draw its masks from `generator`; with None, and outside, nothing is
        dropped."""
        before, self._dropout = self._dropout, generator
        try:
            yield
        finally:
            self._dropout = before

    def state_dict(self) -> dict[str, Any]:
        """All tensors, which of them train, and what is active."""
        return {
            "active": list(self.active),
            "adapters": {
                name: {
                    "tensors": {
                        key: tensor.detach().clone() for key, tensor in adapter.tensors.items()
                    },
                    "trainable": adapter.trainable,
                    "fixed": [
                        key
                        for key, tensor in adapter.tensors.items()
                        if adapter.trainable and not tensor.requires_grad
                    ],
                    "has_kind": adapter.kind is not None,
                }
                for name, adapter in self.adapters.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. The kinds are the job's."""
        self.adapters.clear()
        for name, saved in state["adapters"].items():
            kind = self.kind if saved["has_kind"] else None
            adapter = self._put(name, kind, saved["tensors"], trainable=saved["trainable"])
            for key in saved.get("fixed", ()):
                adapter.tensors[key].requires_grad_(False)
        self.active = list(state["active"])

    def _train(self, names: Sequence[str], *, wanted: bool) -> None:
        for name in names:
            for tensor in self.adapters[name].tensors.values():
                tensor.requires_grad_(wanted)

    def _tensors(self, name: str, parameters: Mapping[str, Tensor] | None) -> Tensors:
        tensors = self.adapters[name].tensors
        if parameters is None:
            return tensors
        return {key: parameters.get(f"{name}.{key}", tensor) for key, tensor in tensors.items()}

    def _put(
        self, name: str, kind: AdapterKind | None, tensors: Tensors, *, trainable: bool
    ) -> Adapter:
        moved = {
            key: tensor.detach().to(self.backbone.device).requires_grad_(trainable)
            for key, tensor in tensors.items()
        }
        self.adapters[name] = Adapter(kind, moved)
        return self.adapters[name]

    def _empty_head(self) -> dict[str, Tensor]:
        return {"weight": torch.zeros(0, self.backbone.dim), "bias": torch.zeros(0)}


def _own_tokens(x: Tensor, mask: Tensor | None) -> Tensor:
    """Tokens [N, S, d] as rows [tokens, d], without padding; prompts stand before the masked
    tokens."""
    if mask is None:
        return x.flatten(0, 1)
    shown = torch.nn.functional.pad(mask.bool(), (x.shape[1] - mask.shape[1], 0), value=True)
    return x[shown]


def per_sample_gradients(
    model: AdaptedModel, inputs: Mapping[str, Tensor], loss_of: Any
) -> dict[str, Tensor]:
    """The gradient of every sample's own loss, [N, *shape] per trainable tensor, in one forward and
    one backward.

    Every sample gets its own copy of the trainable tensors (K = N groups of one row), so the
    gradient of the summed loss with respect to copy n is that of sample n. Where a kind of adapter
    does not pack, there are N backwards instead. `loss_of` maps logits [N, classes] to losses [N].
    """
    kinds = [model.adapters[name].kind for name in model.active]
    packs = all(kind is None or kind.packs for kind in kinds)
    if not packs or (model.active and model.backbone.architecture.projects_positions):
        return _row_by_row(model, inputs, loss_of)
    num_rows = len(next(iter(inputs.values())))
    copies = {
        name: tensor.detach().expand(num_rows, *tensor.shape).clone().requires_grad_()
        for name, tensor in model.parameters().items()
    }
    with torch.enable_grad(), model.backbone.by_itself():
        total = loss_of(model(inputs, parameters=copies).logits).sum()
        gradients = torch.autograd.grad(total, list(copies.values()), allow_unused=True)
    return {
        name: torch.zeros_like(copy) if gradient is None else gradient
        for (name, copy), gradient in zip(copies.items(), gradients, strict=True)
    }


def _row_by_row(
    model: AdaptedModel, inputs: Mapping[str, Tensor], loss_of: Any
) -> dict[str, Tensor]:
    trained = model.parameters()
    with torch.enable_grad(), model.backbone.by_itself():
        losses = loss_of(model(inputs).logits)
        rows = [
            torch.autograd.grad(loss, list(trained.values()), retain_graph=True, allow_unused=True)
            for loss in losses
        ]
    return {
        name: torch.stack([torch.zeros_like(tensor) if each is None else each for each in column])
        for (name, tensor), column in zip(trained.items(), zip(*rows, strict=True), strict=True)
    }
