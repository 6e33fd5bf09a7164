"""Small random models of many architectures, each as a folder with a tokenizer or image processor,
and what each adapter kind does on each: *works*, or the reason why it is refused.

`python tests/helpers/architectures.py` prints the table of platform/README.md.
"""

import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, PreTrainedTokenizerFast, ViTImageProcessorPil

from lamina.adapters import kind_class
from lamina.adapters.base import AdapterKind
from lamina.backbones.backbone import Backbone
from lamina.backbones.calls import Call
from lamina.backbones.load import load_backbone
from lamina.backbones.packing import meeting
from lamina.backbones.settings import BackboneSettings
from lamina.core import Samples, generator_of
from lamina.registry import InputError

KINDS = (
    "lora",
    "lora_mixture",
    "bottleneck",
    "ia3",
    "prefix",
    "prompt",
    "ssf",
    "bias",
    "layernorm",
    "vpt_deep",
)
STATISTICS = "none"
"""The column of jobs without an adapter."""
WORKS = "works"
TEXTS = ["turn on the light", "stop", "is the door of the kitchen open now", "play music"]
WORDS = sorted({word for text in TEXTS for word in text.split()})
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 48,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
IMAGE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
GROUPED = {**TEXT, "num_key_value_heads": 2}
TOWERS = {"text_config": TEXT, "vision_config": IMAGE}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model_type: str
    config: Mapping[str, Any] = field(default_factory=lambda: TEXT)
    """Of the whole model."""
    model: str | None = None
    """The class that is saved, where it is not the one of the model type."""
    tower: str | None = None
    has_padding: bool = True
    """Whether its tokenizer has a token for padding; without, it also pads on the left."""
    modality: str = "text"


def _image(model_type: str, config: Mapping[str, Any] = IMAGE, **others: Any) -> Case:
    return Case(model_type, config, modality="image", **others)


def _decoder(model_type: str, config: Mapping[str, Any] = TEXT) -> Case:
    return Case(model_type, config, has_padding=False)


CASES = {
    "BERT": Case("bert"),
    "RoBERTa": Case("roberta", {**TEXT, "max_position_embeddings": 24}),
    "XLM-R": Case("xlm-roberta", {**TEXT, "pad_token_id": 1}),
    "DistilBERT": Case(
        "distilbert",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 48},
    ),
    "DeBERTa-v2": Case(
        "deberta-v2",
        {
            **TEXT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "position_buckets": 8,
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    "ELECTRA": Case("electra", {**TEXT, "embedding_size": 16}),
    "ALBERT": Case("albert", {**TEXT, "num_hidden_layers": 3, "embedding_size": 16}),
    "MPNet": Case("mpnet"),
    "ModernBERT": Case("modernbert", {**TEXT, "cls_token_id": 2, "sep_token_id": 3}),
    "GPT-2": _decoder("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 48}),
    "GPT-NeoX": _decoder("gpt_neox"),
    "OPT": _decoder("opt", {**TEXT, "ffn_dim": 64, "word_embed_proj_dim": 16}),
    "Llama": _decoder("llama", GROUPED),
    "Qwen2": _decoder("qwen2", GROUPED),
    "Qwen3": _decoder("qwen3", {**GROUPED, "head_dim": 16}),
    "Gemma": _decoder("gemma", {**TEXT, "num_key_value_heads": 1, "head_dim": 16}),
    "BART encoder": Case(
        "bart",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "vocab_size": 48,
            "pad_token_id": 0,
        },
    ),
    "T5 encoder": Case(
        "t5",
        {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 64, "vocab_size": 48},
        has_padding=False,
    ),
    "CLIP text": Case("clip_text_model"),
    "CLIP (tower: text)": Case("clip", TOWERS, tower="text"),
    "SigLIP text": Case("siglip_text_model", model="SiglipTextModel"),
    "SigLIP (tower: text)": Case("siglip", TOWERS, tower="text"),
    "ViT": _image("vit"),
    "DeiT": _image("deit"),
    "BEiT": _image("beit", {**IMAGE, "use_relative_position_bias": True}),
    "DINOv2": _image("dinov2", {**IMAGE, "mlp_ratio": 2}),
    "Swin": _image(
        "swin",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [2, 1],
            "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "ConvNeXt": _image(
        "convnext",
        {"hidden_sizes": [16, 32], "depths": [1, 2], "num_stages": 2, "image_size": 32},
    ),
    "CLIP": _image("clip", TOWERS),
    "CLIP vision": _image("clip_vision_model"),
    "SigLIP": _image("siglip", TOWERS),
    "SigLIP vision": _image("siglip_vision_model"),
}
"""One row each, by its name."""


def save_model(case: Case, folder: Path) -> None:
    """A random model of a case with what reads its inputs."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(case.model_type, **case.config)
    if case.model is None:
        model = transformers.AutoModel.from_config(config)
    else:
        model = getattr(transformers, case.model)(config)
    for name, parameter in model.named_parameters():
        # What starts at zero or one would hide what is left out.
        parameter.data += 0.1 * torch.randn(parameter.shape)
        if "layer_scale" in name or "lambda" in name:
            parameter.data.fill_(1.0)
    model.save_pretrained(folder)
    tokenizer(has_padding=case.has_padding).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def tokenizer(
    *,
    has_padding: bool = True,
    makes: tuple[str, ...] = ("input_ids", "token_type_ids", "attention_mask"),
) -> PreTrainedTokenizerFast:
    """One that knows the words of TEXTS."""
    # Qwen2's own class of tokenizers reads letters.
    known = [*SPECIAL, *WORDS, *ascii_lowercase]
    words = {word: number for number, word in enumerate(known)}
    inner = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    padding = {"pad_token": "[PAD]"} if has_padding else {"padding_side": "left"}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        eos_token="[SEP]",
        model_input_names=list(makes),
        **padding,
    )


def settings_of(case: Case, folder: Path) -> BackboneSettings:
    """How a job names a case's backbone."""
    return BackboneSettings(str(folder), tower=case.tower)


def samples(backbone: Backbone, rows: slice = slice(None)) -> Samples:
    """Rows of four texts or images."""
    if backbone.modality == "text":
        values = TEXTS[rows]
    else:
        drawn = torch.randint(
            0, 256, (4, 32, 32, 3), generator=generator_of(0, "images"), dtype=torch.uint8
        )
        values = list(drawn[rows])
    number = len(values)
    return Samples(values, torch.zeros(number, dtype=torch.int64), torch.arange(number))


def inputs_of(backbone: Backbone, rows: slice = slice(None)) -> Mapping[str, torch.Tensor]:
    """The same, encoded with each other only."""
    return backbone.encode(samples(backbone, rows)).inputs


def perturbed(kind: AdapterKind, backbone: Backbone, seed: int = 0) -> dict[str, torch.Tensor]:
    """Tensors of a kind, none of them as they start."""
    generator = generator_of(seed, "noise")
    return {
        name: (tensor + 0.1 * torch.randn(tensor.shape, generator=generator)).requires_grad_()
        for name, tensor in kind.initialise(backbone, generator_of(seed, "test")).items()
    }


def verdict(backbone: Backbone, name: str) -> str:
    """WORKS, or why a kind is refused. Raises AssertionError where it neither works nor is."""
    if name == STATISTICS:
        features = backbone(inputs_of(backbone)).features
        assert features.shape == (4, backbone.dim)
        assert features.std(dim=0).max() > 1e-3, "every row gets the same features"
        _check_rows(backbone, None, {}, features)
        return WORKS
    kind = kind_class(name)()
    try:
        tensors = perturbed(kind, backbone)
    except InputError as error:
        return str(error)
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    inputs = inputs_of(backbone)
    plain = backbone(inputs).features
    features = backbone(inputs, kind.overlay(tensors, backbone)).features
    assert features.shape == plain.shape
    assert (features - plain).abs().max() > 1e-4, "the adapter changes nothing"
    _check_rows(backbone, kind, tensors, features)
    gradients = torch.autograd.grad(features.pow(3).sum(), list(tensors.values()))
    for key, gradient in zip(tensors, gradients, strict=True):
        # torch's softmax does not depend on what is added to all keys.
        assert gradient.abs().sum() > 0, f"{key} gets no gradient"
    _check_packed(backbone, kind)
    after = backbone.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    return WORKS


def _check_rows(
    backbone: Backbone,
    kind: AdapterKind | None,
    tensors: Mapping[str, torch.Tensor],
    together: torch.Tensor,
) -> None:
    """A row gets alone what it gets padded beside others."""
    for row in range(len(together)):
        overlay = None if kind is None else kind.overlay(tensors, backbone)
        alone = backbone(inputs_of(backbone, slice(row, row + 1)), overlay).features
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-5)


def _check_packed(backbone: Backbone, kind: AdapterKind) -> None:
    """Two adapters on two rows each give what each gives alone: in one call with a leading K, and
    as two calls that meet."""
    several = [perturbed(kind, backbone, seed) for seed in range(2)]
    inputs = inputs_of(backbone)
    halves = [{name: each[rows] for name, each in inputs.items()} for rows in HALVES]
    calls = [
        Call(half, kind.overlay(tensors, backbone))
        for half, tensors in zip(halves, several, strict=True)
    ]
    alone = torch.cat([backbone.run(call).features for call in calls])
    if meeting(calls[0], backbone.architecture) is None:
        return
    stacked = {key: torch.stack([each[key] for each in several]) for key in several[0]}
    leading = backbone(inputs, kind.overlay(stacked, backbone)).features
    torch.testing.assert_close(leading, alone, atol=2e-5, rtol=1e-5)
    met = torch.cat([each.features for each in backbone.run_together(calls)])
    torch.testing.assert_close(met, alone, atol=2e-5, rtol=1e-5)


HALVES = (slice(0, 2), slice(2, 4))


def table() -> str:
    """The Markdown table of all cells, and the reasons of those that are refused."""
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    columns = (STATISTICS, *KINDS)
    lines = [
        f"As of {date.today()}, {versions}: `python tests/helpers/architectures.py`.",
        "",
        "| backbone | " + " | ".join(f"`{each}`" for each in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    reasons: dict[str, int] = {}
    for name, case in CASES.items():
        cells = []
        with tempfile.TemporaryDirectory() as folder:
            save_model(case, Path(folder))
            backbone = load_backbone(settings_of(case, Path(folder)))
            for column in columns:
                found = verdict(backbone, column)
                if found == WORKS:
                    cells.append(WORKS)
                else:
                    reason = reason_of(found)
                    cells.append(f"refused {reasons.setdefault(reason, len(reasons) + 1)}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {reason}" for reason, number in reasons.items())]
    return "\n".join(lines)


def reason_of(refusal: str) -> str:
    """What a refusal says behind the kind and the model type."""
    return refusal.split(" backbone: ", 1)[-1].split(" (allowed", 1)[0]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    print(table(), file=sys.stdout)
