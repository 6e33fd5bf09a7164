"""The frozen head of a causal language model: logits of the next token."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import safe_open
from torch import Tensor, nn

from lamina.backbones.answers import answer_lengths
from lamina.backbones.locate import locate
from lamina.backbones.operations import counting_as, is_counting
from lamina.backbones.unpadded import spread
from lamina.backbones.weights import BUILDING
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OF_GPT_NEOX = "embed_out"
"""The name of its head in folders of weights, whatever its code calls it."""
_BIAS = "final_logits_bias"


@dataclass(frozen=True)
class LanguageHead:
    """logits = W (scale h) + b, maybe squeezed into (-cap, cap)."""

    weight: Tensor
    """[V, dim]."""
    bias: Tensor | None
    """[V]."""
    cap: float | None
    """Gemma 2's `final_logit_softcapping`."""
    scale: float = 1.0
    """Hidden states are multiplied by it first; not 1 in a T5 with tied embeddings."""

    @property
    def num_tokens(self) -> int:
        """V, of the vocabulary."""
        return len(self.weight)

    @cached_property
    def gram(self) -> Tensor:
        """G = W^T W, float32 [dim, dim]. All trials share it, so it counts as no operation of the
        trial that asks first."""
        weight = self.weight.float()
        with counting_as(lambda: 0):
            return weight.T @ weight

    def squared_distances(self, first: Tensor, second: Tensor) -> Tensor:
        """||logits(h) - logits(h')||^2 of hidden states h, h' [M, dim], float32 [M]. It is
        (h - h')^T G (h - h'), which needs no product as wide as the vocabulary, unless the logits
        are squeezed."""
        if self.cap is not None:
            return (self(first) - self(second)).square().sum(dim=1)
        apart = first - second
        return ((apart @ self.gram) * apart).sum(dim=1)

    def __call__(self, hidden: Tensor) -> Tensor:
        """float32 [..., V] of hidden states [..., dim] behind the model's last norm."""
        scaled = hidden.to(self.weight.dtype) * self.scale
        logits = F.linear(scaled, self.weight, self.bias).float()
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def of_answers(self, answers: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [N, A, V] of the next token after each of `answers` [N, A, dim] to these inputs.

        Behind a shorter answer its last logits stand again, which give no gradient. Where
        operations are counted, padding counts as any token.
        """
        columns = torch.arange(answers.shape[1], device=answers.device)
        counted = (columns < answer_lengths(inputs)[:, None]).flatten()
        if is_counting() or counted.all():
            return self(answers)
        at = counted.nonzero()[:, 0]
        logits = self(answers.flatten(0, 1).index_select(0, at))
        return spread(logits, counted.cumsum(0) - 1, at).unflatten(0, answers.shape[:2])


def load_head(model: "PreTrainedModel", name: str) -> LanguageHead:
    """The head that belongs to a language model's body: its word embeddings where the two are tied,
    else the tensors in its folder. Raises InputError where there is none."""
    config: Any = model.config
    cap = getattr(config, "final_logit_softcapping", None)
    scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
    if getattr(config, "tie_word_embeddings", True):
        words = cast(nn.Embedding, model.get_input_embeddings()).weight
        # BART's own, of zeros unless somebody trained it.
        bias = _tensors(Path(locate(name)), (_BIAS,)).get(_BIAS)
        own = None if bias is None else bias[0].to(model.device, model.dtype)
        return LanguageHead(words, own, cap, scale)
    module = _name_of_head(config, name)
    heads = (module, _OF_GPT_NEOX)
    names = tuple(f"{each}.{kind}" for each in heads for kind in ("weight", "bias"))
    found = _tensors(Path(locate(name)), names)
    module = next((each for each in heads if f"{each}.weight" in found), module)
    if f"{module}.weight" not in found:
        raise InputError(
            f"backbone.name: {name!r} lacks {module}.weight, the head of a {config.model_type!r} "
            "language model (allowed: a folder that was saved with its head)"
        )
    moved = {key: each.to(model.device, model.dtype) for key, each in found.items()}
    return LanguageHead(moved[f"{module}.weight"], moved.get(f"{module}.bias"), cap, scale)


def _name_of_head(config: Any, name: str) -> str:
    """The name of the head in the whole language model."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    whole_model = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        with BUILDING, init_empty_weights():
            whole = whole_model.from_config(config)
    except ValueError as error:
        raise InputError(
            f"backbone.name: {name!r} is a {config.model_type!r} model, which is no causal "
            "language model"
        ) from error
    head = whole.get_output_embeddings()
    return next(name for name, module in whole.named_modules() if module is head)


def _tensors(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of these names in a folder of safetensors; names that are missing are left
    out."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        wanted = {each: folder / files[each] for each in names if each in files}
    else:
        wanted = {each: folder / "model.safetensors" for each in names}
    found = {}
    for name, file in wanted.items():
        if not file.is_file():
            continue
        with safe_open(file, "pt") as content:
            if name in content.keys():  # noqa: SIM118
                found[name] = content.get_tensor(name)
    return found


def prefix_of_body(model: "PreTrainedModel") -> str:
    """The prefix of the body's module names in the whole language model (`model.`). It is empty
    where the whole model has the body's modules itself (T5)."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config: Any = model.config
    is_seq2seq = getattr(config, "is_encoder_decoder", False)
    with BUILDING, init_empty_weights():
        whole = (AutoModelForSeq2SeqLM if is_seq2seq else AutoModelForCausalLM).from_config(config)
    return next(
        (f"{name}." for name, each in whole.named_modules() if type(each) is type(model)), ""
    )
