"""Any other tuner of PEFT (Mangrulkar et al., 2022), by its `peft_type` and its own configuration:
LoHa, LoKr, VeRA, DoRA, OFT ..."""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lamina.adapters.base import AdapterKind, Tensors
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, StandIn
from lamina.registry import InputError, unknown

NOT_OF_AN_ADAPTER = ("task_type", "base_model_name_or_path", "inference_mode", "auto_mapping")
"""Entries of PEFT's configurations that say nothing of the tensors."""


@dataclass(frozen=True)
class Peft(AdapterKind):
    """PEFT's own modules, in a tree that shares the frozen weights and takes the backbone's place.

    Slower than the kinds of Lamina's own: its tensors cannot lead with K, and only one such adapter
    lies over a backbone at once. AdaLoRA keeps its first rank, because nothing calls its scheduler.
    """

    packs: ClassVar[bool] = False

    peft_type: str = "LOHA"
    """PEFT's name of the tuner."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its configuration, as in PEFT's `adapter_config.json`. Default `target_modules`: query and
    value."""

    def __post_init__(self) -> None:
        for name, value in self.config.items():
            if "dropout" in name and value:
                raise InputError(f"adapter.config.{name}: {value} is not 0, which 'peft' needs")

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """As PEFT does, drawn from `generator`.

        Raises InputError for what PEFT refuses, and for what would change the frozen weights.
        """
        self._tree(backbone)
        seed = int(torch.randint(2**31, (), generator=generator))
        fresh = _tuner(_sharing(backbone.model), self._peft_config(backbone), seed)
        return {name: tensor.detach().clone() for name, tensor in _trained(fresh.module)}

    def overlay(
        self, tensors: Tensors, backbone: Backbone, dropout: torch.Generator | None = None
    ) -> Overlay:
        """PEFT's modules with these tensors, in the backbone's place."""
        return Overlay(stand_in=StandIn(self._tree(backbone).module, tensors))

    def to_peft(
        self, tensors: Tensors, backbone: Backbone
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What PEFT itself would save, frozen random projections included."""
        tree = self._tree(backbone)
        given = self._peft_config(backbone).to_dict()
        config = {key: value for key, value in given.items() if key not in NOT_OF_AN_ADAPTER}
        saved = {key: tensors[name] for key, name in tree.trained.items()}
        return json.loads(json.dumps(config, default=_plain)), {**saved, **tree.frozen}

    def from_peft(self, state: Tensors, backbone: Backbone) -> dict[str, Tensor]:
        """The trained tensors. Raises InputError where frozen ones that came along are others."""
        tree = self._tree(backbone)
        for key, tensor in tree.frozen.items():
            if key in state and not torch.equal(state[key].cpu(), tensor.cpu()):
                raise InputError(f"adapter.config: {key} was drawn from another seed")
        return {name: state[key] for key, name in tree.trained.items() if key in state}

    def _tree(self, backbone: Backbone) -> "_Tree":
        """PEFT's modules on this backbone, made once."""
        trees = _TREES.setdefault(backbone, {})
        key = json.dumps([self.peft_type, self.config], sort_keys=True)
        if key not in trees:
            trees[key] = _checked_tree(backbone.model, self._peft_config(backbone))
        return trees[key]

    def _peft_config(self, backbone: Backbone) -> Any:
        from peft import PeftType
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        known = {each.value for each in PeftType}
        if self.peft_type not in known:
            raise unknown("adapter.peft_type", self.peft_type, known)
        config_class = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.peft_type)]
        has_targets = "target_modules" in config_class.__dataclass_fields__
        targets = list(backbone.architecture.query_and_value)
        defaults = {"target_modules": targets} if has_targets else {}
        try:
            return config_class(**{**defaults, **self.config})
        except (TypeError, ValueError) as error:
            raise InputError(f"adapter.config: PEFT refuses it: {error}") from error


@dataclass(frozen=True)
class _Tree:
    """A backbone's modules with those of a PEFT tuner among them."""

    module: nn.Module
    trained: dict[str, str]
    """The name of each trained parameter of `module`, by the key under which PEFT saves it."""
    frozen: dict[str, Tensor]
    """What PEFT saves besides."""


_TREES: "WeakKeyDictionary[Backbone, dict[str, _Tree]]" = WeakKeyDictionary()


def _checked_tree(model: nn.Module, config: Any) -> _Tree:
    """The tuner's tree, made on copies of the weights: some tuners (PiSSA, OLoRA) change the
    weights they start from, and are refused."""
    copies = copy.deepcopy(model)
    originals = dict(zip(copies.parameters(), model.parameters(), strict=True))
    tree = _tuner(copies, config, seed=0)
    for copied, original in originals.items():
        if not torch.equal(copied, original):
            raise InputError(
                f"adapter.config: {config.peft_type.value} as configured changes the frozen weights"
            )
        copied.data = original.data
    return tree


def _sharing(model: nn.Module) -> nn.Module:
    """The same modules once more, on the same numbers."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, {**shared, **{id(b): b for b in model.buffers()}})


def _tuner(model: nn.Module, config: Any, seed: int) -> _Tree:
    from peft import get_peft_model, get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTuner

    if config.is_prompt_learning:
        raise InputError(
            f"adapter.peft_type: {config.peft_type.value} learns prompts (allowed: a tuner of "
            "modules; for prompts adapter.kind 'prompt', 'prefix' or 'vpt_deep')"
        )
    config = copy.deepcopy(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(model, config)
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            raise InputError(f"adapter.config: PEFT refuses it: {error}") from error
    if not isinstance(wrapped.base_model, BaseTuner):
        raise InputError(f"adapter.peft_type: {config.peft_type.value} is not a tuner of modules")
    module = wrapped.base_model.model.eval()
    names = {tensor.data_ptr(): name for name, tensor in _trained(module)}
    saved = get_peft_model_state_dict(wrapped)
    trained = {key: names[t.data_ptr()] for key, t in saved.items() if t.data_ptr() in names}
    frozen = {key: tensor.clone() for key, tensor in saved.items() if key not in trained}
    return _Tree(module, trained, frozen)


def _trained(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad)


def _plain(value: Any) -> Any:
    """Sets and enumerations of PEFT's configurations, for JSON."""
    return sorted(value) if isinstance(value, set) else value.value
