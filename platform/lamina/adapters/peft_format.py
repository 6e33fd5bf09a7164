"""Adapters as folders in PEFT's own format: `adapter_config.json` and `adapter_model.safetensors`,
never pickle."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lamina.adapters.base import PEFT_PREFIX, AdapterKind, Tensors
from lamina.backbones.backbone import Backbone
from lamina.backbones.language_head import prefix_of_body
from lamina.backbones.locate import public_name
from lamina.core import AnswerKind, generator_of
from lamina.registry import InputError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


def export_adapter(
    kind: AdapterKind,
    tensors: Tensors,
    backbone: Backbone,
    folder: Path,
    answers: AnswerKind = "classes",
) -> None:
    """Write one adapter. `peft.PeftModel.from_pretrained(model, folder)` loads it where PEFT knows
    the kind: on what `AutoModel` gives, or, where `answers` are tokens, on the whole language model
    of `AutoModelForCausalLM` (or `AutoModelForSeq2SeqLM`).

    Where it does not (a bottleneck), the same two files hold Lamina's own kind and tensors.
    """
    exported = kind.to_peft(tensors, backbone)
    config, state = exported or ({"lamina_kind": kind.name}, dict(tensors))
    task, base = "FEATURE_EXTRACTION", backbone.settings.name
    if answers == "tokens":
        task = "SEQ_2_SEQ_LM" if backbone.architecture.has_decoder else "CAUSAL_LM"
        base = public_name(base)
        body = PEFT_PREFIX + prefix_of_body(backbone.model)
        state = {
            body + name.removeprefix(PEFT_PREFIX) if name.startswith(PEFT_PREFIX) else name: each
            for name, each in state.items()
        }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        # Some tuners of PEFT save one tensor under several names, which safetensors refuses.
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()},
        folder / WEIGHTS,
    )
    about = {
        "task_type": task,
        "base_model_name_or_path": base,
        "inference_mode": True,
    }
    (folder / CONFIG).write_text(json.dumps({**about, **config}, indent=2) + "\n")


def import_adapter(kind: AdapterKind, backbone: Backbone, folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter that `export_adapter` or PEFT wrote, checked against the backbone.

    Raises InputError where a file is missing or broken, a tensor is missing, has another shape, or
    is not finite.
    """
    try:
        state = load_file(folder / WEIGHTS)
        config = json.loads((folder / CONFIG).read_text())
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG} is no JSON object")
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise InputError(f"{folder}: not an adapter's folder: {error}") from error
    tensors = state if config.get("lamina_kind") == kind.name else kind.from_peft(state, backbone)
    _check(kind, tensors, backbone, folder)
    return tensors


def _check(kind: AdapterKind, tensors: Tensors, backbone: Backbone, folder: Path) -> None:
    expected = kind.initialise(backbone, generator_of(0, "shapes"))
    if tensors.keys() != expected.keys():
        missing, strange = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
        names = ", ".join(sorted(missing or strange)[:3])
        raise InputError(
            f"{folder}: {len(missing)} tensors are missing and {len(strange)} are unknown to this "
            f"backbone ({names})"
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise InputError(
                f"{folder}: {name} is {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
        if not tensor.isfinite().all():
            raise InputError(f"{folder}: {name} holds numbers that are not finite")
