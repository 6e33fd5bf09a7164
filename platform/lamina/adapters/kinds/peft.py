"""Any other tuner of PEFT (Mangrulkar et al., 2022), by its `peft_type` and its own configuration:
LoHa, LoKr, VeRA, DoRA, OFT ..."""

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lamina.adapters.base import AdapterKind, Tensors
from lamina.adapters.kinds._peft_tuners import check_tuner, default_config
from lamina.backbones.backbone import Backbone
from lamina.backbones.overlay import Overlay, StandIn
from lamina.registry import InputError, unknown

NOT_OF_AN_ADAPTER = ("task_type", "base_model_name_or_path", "inference_mode", "auto_mapping")
"""Entries of PEFT's configurations that say nothing of the tensors."""
WRITES_INTO_EXPANDED = "more than one element of the written-to tensor"
"""What PyTorch says of a write into an expanded constant."""


@dataclass(frozen=True)
class Peft(AdapterKind):
    """PEFT's own modules, in a module tree that shares the frozen weights and runs in the
    backbone's place.

    It is slower than the kinds of Lamina's own: its tensors cannot lead with K, and only one such
    adapter lies over a backbone at once. `tests/helpers/peft_table.py` shows which tuners work; the
    others are refused when the job is read.
    """

    packs: ClassVar[bool] = False

    peft_type: str = "LOHA"
    """PEFT's name of the tuner."""
    config: dict[str, Any] = field(default_factory=dict, hash=False)
    """Its configuration, as in PEFT's `adapter_config.json`. Default `target_modules`: query and
    value of every layer; of LN_TUNING the layer norms, of IA3 key, value and the last module of
    each MLP, of TRAINABLE_TOKENS the word embeddings."""

    def __post_init__(self) -> None:
        check_tuner(self.peft_type, self.config)

    def initialise(self, backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
        """As PEFT does, drawn from `generator`.

        Raises InputError for what PEFT refuses, for what would change the frozen weights, and for
        what cannot be trained or saved here. A backbone in outline is filled with constants first,
        which shows all of that; the values drawn from it are of no use.
        """
        tree = self._tree(backbone)
        if backbone.device.type == "meta":
            return {name: tensor.detach().clone() for name, tensor in _trained(tree.module)}
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
        if backbone.settings.quantize is not None:
            raise InputError(
                "adapter.kind: 'peft' lays modules over whole weights, and backbone.quantize "
                f"{backbone.settings.quantize!r} holds them in fewer bits (allowed: 'lora', "
                "'bottleneck', 'ia3' ..., or backbone.quantize null)"
            )
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
        keys = {each.name for each in fields(config_class)}
        for key in self.config:
            if key not in keys:
                raise unknown("adapter.config", key, keys.difference(NOT_OF_AN_ADAPTER))
        with _refusals():
            return config_class(**{**default_config(self.peft_type, backbone), **self.config})


@dataclass(frozen=True)
class _Tree:
    """A backbone's modules with those of a PEFT tuner among them."""

    module: nn.Module
    trained: dict[str, str]
    """The name of each trained parameter of `module`, by the key under which PEFT saves it."""
    frozen: dict[str, Tensor]
    """What PEFT saves besides."""


_TREES: "WeakKeyDictionary[Backbone, dict[str, _Tree]]" = WeakKeyDictionary()


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns whatever PEFT raises inside into an InputError about the configuration. PEFT's warnings
    (LoRA on a layer norm, say) are not for the user: the configuration was checked."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"adapter.config: PEFT refuses it: {error}") from error


def _checked_tree(model: nn.Module, config: Any) -> _Tree:
    """The tuner's tree, made on copies of the weights: some tuners (PiSSA, OLoRA) change the
    weights they start from, and are refused."""
    in_outline = any(parameter.is_meta for parameter in model.parameters())
    copies = _hollow(model) if in_outline else copy.deepcopy(model)
    sources = [each.detach() for each in (copies if in_outline else model).parameters()]
    weights = list(copies.parameters())
    changes = InputError(
        f"adapter.config: {config.peft_type.value} as configured changes the frozen weights"
    )
    try:
        tree = _tuner(copies, config, seed=0)
    except InputError as error:
        if WRITES_INTO_EXPANDED in str(error):
            raise changes from error
        raise
    for weight, source in zip(weights, sources, strict=True):
        if not torch.equal(weight, source):
            raise changes
        weight.data = source
    return tree


def _hollow(model: nn.Module) -> nn.Module:
    """A model in outline with constants as weights, expanded from one number. They can be computed
    with and take no memory, and writing into them is an error."""
    stand_ins: dict[int, Tensor] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        value = torch.ones((), dtype=tensor.dtype).expand(tensor.shape)
        is_weight = isinstance(tensor, nn.Parameter)
        stand_ins[id(tensor)] = nn.Parameter(value, requires_grad=False) if is_weight else value
    return copy.deepcopy(model, stand_ins)


def _sharing(model: nn.Module) -> nn.Module:
    """The same modules once more, on the same numbers."""
    shared = {id(p): nn.Parameter(p.data, requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, {**shared, **{id(b): b for b in model.buffers()}})


def _tuner(model: nn.Module, config: Any, seed: int) -> _Tree:
    from peft import get_peft_model, get_peft_model_state_dict
    from peft.tuners.tuners_utils import BaseTuner

    config = copy.deepcopy(config)
    name = config.peft_type.value
    with torch.random.fork_rng(devices=[]), _refusals():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config)
        tuner = wrapped.base_model
        if not isinstance(tuner, BaseTuner) or type(tuner).forward is not BaseTuner.forward:
            raise InputError(
                f"adapter.peft_type: {name} is refused: it does more than replace modules"
            )
        module = tuner.model.eval()
        saved = get_peft_model_state_dict(wrapped)
    names = {tensor.data_ptr(): name for name, tensor in _trained(module) if tensor.numel() > 0}
    if not names:
        raise InputError(f"adapter.config: {name} as configured trains nothing")
    if any(tensor._backward_hooks for _, tensor in _trained(module)):
        raise InputError(
            f"adapter.peft_type: {name} is refused: its gradient hooks do not run here"
        )
    trained = {key: names[t.data_ptr()] for key, t in saved.items() if t.data_ptr() in names}
    if lost := sorted(set(names.values()).difference(trained.values())):
        raise InputError(
            f"adapter.config: {name} as configured trains what PEFT does not save ({lost[0]})"
        )
    frozen = {key: tensor.clone() for key, tensor in saved.items() if key not in trained}
    return _Tree(module, trained, frozen)


def _trained(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad)


def _plain(value: Any) -> Any:
    """Sets and enumerations of PEFT's configurations, for JSON."""
    return sorted(value) if isinstance(value, set) else value.value
