"""A GPU that is pretended: real numbers on the CPU in tensors that say they are on `cuda`, and an
error wherever PyTorch would not let them meet a CPU tensor."""

from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map_only

CUDA = torch.device("cuda")
MEETS_SCALARS_ONLY_OF_ITS_OWN = {
    "addmm", "baddbmm", "bmm", "cat", "concat", "dot", "einsum", "gather", "hstack", "index_add",
    "index_copy", "index_copy_", "index_select", "isin", "linear", "matmul", "mm", "mv", "stack",
    "vstack", "equal", "searchsorted",
}  # fmt: skip
"""Functions that take no scalar of another device either; elementwise ones do."""
TO_THE_CPU = {"cpu", "tolist", "item"}


class OnDevice(Tensor):
    """A tensor that is taken to be on the GPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __deepcopy__(self, memo: Any) -> "OnDevice":
        return self.detach().clone().as_subclass(OnDevice).requires_grad_(self.requires_grad)


class PretendedDevice(TorchFunctionMode):
    """Inside, tensors that are moved to `cuda` or made there are `OnDevice`, and so is what comes
    of them. Raises RuntimeError where tensors of both devices meet."""

    def __init__(self, *resident: Tensor) -> None:
        """`resident` are there already: a backbone's weights."""
        super().__init__()
        self._resident = {id(each): each for each in resident}

    def holds(self, value: Any) -> bool:
        """Whether this is a tensor of the device."""
        return isinstance(value, OnDevice) or id(value) in self._resident

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)
        tensors = [each for each in tree_iter((args, kwargs)) if isinstance(each, Tensor)]
        here = any(self.holds(each) for each in tensors)
        if name == "__get__" and owner is Tensor.device:
            return CUDA if here else func(*args, **kwargs)
        if name == "__get__" and owner is Tensor.is_cuda:
            return here
        if here and name in ("numpy", "__array__"):
            raise RuntimeError("numpy() of a tensor on the pretended GPU")
        self._check(name, args, kwargs, tensors)
        wanted = self._wanted(name, args, kwargs)
        if wanted is not None:
            args, kwargs = _on_the_cpu(args), _on_the_cpu(kwargs)
        if name in TO_THE_CPU or (wanted is not None and wanted.type == "cpu"):
            return tree_map_only(
                Tensor, lambda each: each.as_subclass(Tensor), func(*args, **kwargs)
            )
        result = func(*args, **kwargs)
        if here or wanted is not None:
            return tree_map_only(Tensor, self._placed, result)
        return result

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor if self.holds(tensor) else tensor.as_subclass(OnDevice)

    def _wanted(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The device that a call names, if it names one."""
        if kwargs.get("device") is not None:
            return torch.device(kwargs["device"])
        if name == "to":
            for each in args[1:]:
                if isinstance(each, torch.device | str):
                    return torch.device(each)
                if isinstance(each, Tensor):
                    return CUDA if self.holds(each) else torch.device("cpu")
        return CUDA if name == "cuda" else None

    def _check(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]
    ) -> None:
        here = [each for each in tensors if self.holds(each)]
        wanted = self._wanted(name, args, kwargs)
        if name == "to" or name == "copy_":
            return
        generators = [
            each for each in tree_iter((args, kwargs)) if isinstance(each, torch.Generator)
        ]
        if generators and (here or (wanted is not None and wanted.type == "cuda")):
            raise RuntimeError(f"{name}: a generator of the CPU draws on the pretended GPU")
        if not here:
            return
        others = [each for each in tensors if not self.holds(each)]
        if name in ("__getitem__", "__setitem__"):
            indices = [each for each in tree_iter(args[1]) if isinstance(each, Tensor)]
            if self.holds(args[0]):
                if name == "__getitem__" or not indices:
                    return  # An index of the CPU is moved, and a slice is copied into.
                others = [each for each in others if each is args[2]]
            elif name == "__getitem__" and all(each.dim() == 0 for each in indices):
                return  # A scalar is read as a number.
            else:
                others = [each for each in (args[0], *others) if each.dim() > 0]
                if all(each.dim() == 0 for each in indices):
                    return
        if name == "__set__":
            return
        strict = name in MEETS_SCALARS_ONLY_OF_ITS_OWN
        for each in others:
            if each.dim() > 0 or strict:
                raise RuntimeError(
                    f"{name or func_name(args)}: a tensor {tuple(each.shape)} of the CPU meets "
                    f"one {tuple(here[0].shape)} of the pretended GPU"
                )


def func_name(args: tuple[Any, ...]) -> str:
    """What is shown of a call without a name."""
    return f"a call with {len(args)} arguments"


def _on_the_cpu(arguments: Any) -> Any:
    """The arguments of a call, wherever they name the pretended device."""

    def real(value: Any) -> Any:
        return torch.device("cpu") if value == CUDA else value

    if isinstance(arguments, dict):
        return {key: real(value) if key == "device" else value for key, value in arguments.items()}
    return tuple(real(each) if isinstance(each, torch.device) else each for each in arguments)


def moved(backbone: Any) -> tuple[Any, PretendedDevice]:
    """A view of a backbone that is on the pretended device, and the mode to use it in."""
    view = copy(backbone)
    view.device = CUDA
    model = backbone.model
    return view, PretendedDevice(*model.parameters(), *model.buffers())


def tensors_of(state: Any) -> Iterator[Tensor]:
    """Every tensor of a nested state."""
    return (each for each in tree_iter(state) if isinstance(each, Tensor))
