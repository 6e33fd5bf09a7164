"""Weights of linear modules in fewer bits: 8 by torchao, 4 by bitsandbytes."""

from importlib.util import find_spec
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lamina.backbones.operations import FORMULAS
from lamina.backbones.settings import Quantisation
from lamina.registry import InputError

PACKAGES: dict[Quantisation, str] = {"int8": "torchao", "nf4": "bitsandbytes"}
BLOCK = 64
"""How many numbers share a scale in `nf4`."""


def check_quantisation(quantise: Quantisation | None, device: torch.device) -> None:
    """Raise InputError where the package is missing that holds weights so, or cannot do it on this
    kind of device. A model in outline, on `meta`, fits anywhere."""
    if quantise is None:
        return
    package = PACKAGES[quantise]
    if find_spec(package) is None:
        raise InputError(
            f"backbone.quantize: {quantise!r} needs {package}, which is not installed "
            f"(pip install {package})"
        )
    if quantise == "nf4" and device.type != "meta":
        from bitsandbytes import supported_torch_devices

        if device.type not in supported_torch_devices:
            raise InputError(
                f"backbone.quantize: {package} has no {quantise!r} on a {device.type!r} device "
                f"(allowed: {', '.join(sorted(supported_torch_devices))})"
            )


def quantisation_config(quantise: Quantisation, dtype: torch.dtype) -> Any:
    """The configuration for transformers. `dtype` is the type in which the modules compute."""
    if quantise == "int8":
        from torchao.quantization import Int8WeightOnlyConfig
        from transformers import TorchAoConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def check_modules(model: nn.Module, quantise: Quantisation | None) -> None:
    """Raise InputError where a model has no module that can be quantised in this way."""
    if quantise == "int8" and not any(isinstance(each, nn.Linear) for each in model.modules()):
        raise InputError(
            "backbone.quantize: torchao holds linear modules as 'int8', and this model has none, "
            "but Conv1D as GPT-2 does (allowed: nf4)"
        )


def settle(model: nn.Module, quantise: Quantisation) -> None:
    """Make a loaded model compute one and the same thing with gradients and without.

    Raises InputError where the package would compute something else.
    """
    if quantise == "int8":
        return
    import bitsandbytes

    for module in model.modules():
        if not isinstance(module, bitsandbytes.nn.Linear4bit):
            continue
        if module.weight.device.type == "cpu" and module.in_features % BLOCK:
            # Seen of 0.50.2 with AVX-512: each row is taken to begin a block of its own.
            raise InputError(
                "backbone.quantize: bitsandbytes computes 'nf4' wrongly on a CPU where a linear "
                f"module reads {module.in_features} numbers (allowed: multiples of {BLOCK})"
            )
        # It would repack its weights on its first input without gradient and from then on compute
        # in bfloat16, and its backward would give nothing.
        module.support_avx512bf16_for_cpu = False
    FORMULAS[torch.ops.bitsandbytes.gemm_4bit] = _product


def _product(x: Tensor, _: Tensor, shape: tuple[int, int], *__: Any, **___: Any) -> int:
    """FLOPs of x [..., d_in] times a packed weight of `shape` (d_out, d_in)."""
    return 2 * x.numel() * shape[0]


def num_numbers(parameter: Tensor) -> int:
    """How many numbers a parameter holds, also where two of them are packed into a byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else prod(state.shape)
