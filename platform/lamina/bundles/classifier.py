"""The plain form of a bundle: one transformers model for sequence or image classification, which
needs neither Lamina nor PEFT."""

import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lamina.adapters.model import HEAD
from lamina.backbones.locate import locate
from lamina.backbones.weights import BUILDING
from lamina.bundles import modeling_lamina
from lamina.bundles.modeling_lamina import LaminaClassifier, LaminaConfig
from lamina.bundles.predictor import Predictor
from lamina.bundles.writing import save_encoder
from lamina.strategies.base import Strategy

CODE = "modeling_lamina.py"
_AUTO = {"text": "AutoModelForSequenceClassification", "image": "AutoModelForImageClassification"}
TOLERANCE = 1e-4
"""The largest difference of a logit that merging an adapter into float32 weights explains."""


def why_not_plain(predictor: Predictor) -> str | None:
    """Why a bundle is no plain adapter with a linear head, or on a language model; None where it
    is."""
    strategy, model = predictor.strategy, predictor.model
    own = type(strategy)
    if own.predict is not Strategy.predict or own.generate is not Strategy.generate:
        name, answers = predictor.bundle.job.strategy_name, predictor.bundle.facts.answers
        more = "a head" if answers == "classes" else "its active adapters"
        return f"strategy {name!r} answers by more than {more}"
    if predictor.needs_task:
        return "its predictions are told their task"
    kinds = {name: model.adapters[name].kind for name in model.active}
    for name, kind in kinds.items():
        assert kind is not None
        if kind.to_peft(model.adapters[name].tensors, model.backbone) is None:
            return f"PEFT has no adapter of kind {kind.name!r}"
    if model.backbone.settings.tower not in (None, "both"):
        return "its backbone is one tower of a model"
    if (held := model.backbone.settings.quantize) is not None:
        return f"the weights of its backbone are held as {held}"
    return None


def write_classifier(predictor: Predictor, adapters: Path, folder: Path) -> None:
    """Write the model that answers as the bundle does. `adapters` are in PEFT's format.

    Raises ValueError where the adapters cannot be merged, or what comes out answers otherwise.
    """
    bundle, model = predictor.bundle, predictor.model
    base = _merged(locate(bundle.job.backbone.name), [adapters / name for name in model.active])
    names = dict(enumerate(predictor.class_names))
    config = LaminaConfig(
        backbone={**base.config.to_diff_dict(), "model_type": base.config.model_type},
        pooling=model.backbone.pooling,
        width=model.backbone.dim,
        id2label=names,
        label2id={name: number for number, name in names.items()},
    )
    code = CODE.removesuffix(".py")
    config.auto_map = {
        "AutoConfig": f"{code}.LaminaConfig",
        _AUTO[bundle.facts.modality]: f"{code}.LaminaClassifier",
    }
    config.architectures = ["LaminaClassifier"]
    plain = LaminaClassifier(config).eval()
    plain.backbone.load_state_dict(base.state_dict())
    head = model.adapters[HEAD].tensors
    with torch.no_grad():
        plain.head.weight.copy_(head["weight"])
        plain.head.bias.copy_(head["bias"])
    _check(plain, predictor)
    plain.save_pretrained(folder)
    shutil.copy(Path(modeling_lamina.__file__), folder / CODE)
    save_encoder(model.backbone.inputs.encoder, folder)


def _merged(location: str, adapters: Sequence[Path]) -> Any:
    """The backbone with all adapters in its weights."""
    import peft
    from transformers import AutoModel

    with BUILDING:
        base = AutoModel.from_pretrained(location, trust_remote_code=False).eval()
    for folder in adapters:
        with warnings.catch_warnings():
            # PEFT warns where a name of the hub cannot be looked up, and of merging tied weights.
            warnings.simplefilter("ignore")
            laid = peft.PeftModel.from_pretrained(base, str(folder))
            try:
                base = laid.merge_and_unload(safe_merge=True)
            except (AttributeError, NotImplementedError, TypeError) as error:
                raise ValueError(f"PEFT cannot merge {folder.name!r}: {error}") from error
    return base


@torch.no_grad()
def _check(plain: LaminaClassifier, predictor: Predictor) -> None:
    """Raises ValueError where the plain model answers otherwise."""
    asked = _examples(predictor)
    data = predictor.encode(asked).to("cpu")
    expected = predictor.logits(data).logits
    found: Tensor = plain(**{name: each for name, each in data.inputs.items()}).logits
    largest = float((found - expected).abs().max())
    if largest > TOLERANCE:
        raise ValueError(f"a logit of the merged model differs by {largest:.2g}")


def _examples(predictor: Predictor) -> Sequence[Any]:
    if predictor.bundle.facts.modality == "text":
        return [f"{name}: a text about it" for name in predictor.class_names[:8]]
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(0, 256, (64, 64, 3), generator=generator, dtype=torch.uint8) for _ in range(4)
    ]
