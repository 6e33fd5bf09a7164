"""Tiny random language models with MiniLM's words, and a stream of questions for them."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    T5Config,
)

from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.backbones.locate import locate
from lamina.backbones.settings import BackboneSettings
from lamina.core import Batch, Experience, Samples, Stream, Task

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "intermediate_size": 48}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}
WORDS = 30_522
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL, **HEADS, vocab_size=WORDS, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SMALL, **HEADS, vocab_size=WORDS, tie_word_embeddings=True),
    "gpt2": GPT2Config(n_embd=32, n_layer=3, n_head=4, vocab_size=WORDS, n_positions=64),
}
MORE: dict[str, PreTrainedConfig] = {
    "qwen3": Qwen3Config(**SMALL, **HEADS, head_dim=8, vocab_size=WORDS, tie_word_embeddings=True),
    "gemma": GemmaConfig(**SMALL, **HEADS, head_dim=8, vocab_size=WORDS),
    "gemma2": Gemma2Config(
        **SMALL, **HEADS, head_dim=8, vocab_size=WORDS, final_logit_softcapping=5.0
    ),
    "mistral": MistralConfig(**SMALL, **HEADS, vocab_size=WORDS, sliding_window=4),
    "phi": PhiConfig(**SMALL, num_attention_heads=4, vocab_size=WORDS),
    "phi3": Phi3Config(**SMALL, **HEADS, vocab_size=WORDS, pad_token_id=0),
    "opt": OPTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        ffn_dim=48,
        num_attention_heads=4,
        vocab_size=WORDS,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
    ),
    "gpt_neox": GPTNeoXConfig(**SMALL, num_attention_heads=4, vocab_size=WORDS),
}
"""Further causal models: norms of queries and keys, shared keys, capped logits, a sliding window, a
head with a bias, fused projections, learned positions."""
SMALL_T5 = {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2}
SEQ2SEQ: dict[str, PreTrainedConfig] = {
    "t5": T5Config(
        **SMALL_T5, vocab_size=WORDS, pad_token_id=0, eos_token_id=102, decoder_start_token_id=0
    ),
    "t5 gated": T5Config(
        **SMALL_T5,
        vocab_size=WORDS,
        pad_token_id=0,
        eos_token_id=102,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    "bart": BartConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        vocab_size=WORDS,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=101,
        eos_token_id=102,
        decoder_start_token_id=102,
        forced_eos_token_id=102,
    ),
}
"""Models with encoder and decoder; [SEP] ends a text."""
ROOMS = ["kitchen", "cellar", "attic", "garage"]
UNEVEN = ["kitchen", "attic", "second room on the left", "place where the old car stands"]
"""Rooms whose calls have different numbers of tokens."""
CALLS = {"lights": "LightOn", "doors": "DoorOpen", "music": "Play"}
ASKED = ["turn it on in the {}", "the {} please", "I am in the {} now", "{}", "do it for the {}"]


def write_model(name: str, folder: Path, **changes: int) -> Path:
    """A tiny language model as a folder; its end token is BERT's [SEP]. `changes` are to its
    configuration."""
    torch.manual_seed(0)
    config = deepcopy({**CONFIGS, **MORE, **SEQ2SEQ}[name])
    config.update(changes)
    whole_model = AutoModelForSeq2SeqLM if name in SEQ2SEQ else AutoModelForCausalLM
    model = whole_model.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # So that answers depend on what is asked. T5 starts with large weights.
            if parameter.dim() > 1 and model.config.model_type != "t5":
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(locate("minilm"))
    tokenizer.eos_token = tokenizer.sep_token
    tokenizer.save_pretrained(folder)
    return folder


def language_backbone(name: str, folder: Path) -> Backbone:
    """A tiny language model, loaded: whole where it has a decoder."""
    return loaded(name, write_model(name, folder))


def loaded(name: str, folder: Path) -> Backbone:
    """The tiny model of a folder: whole where it has a decoder."""
    return load_backbone(BackboneSettings(str(folder), tower="both" if name in SEQ2SEQ else None))


def calls_stream(backbone, rooms: Sequence[str] = ROOMS) -> Stream[Batch]:
    """Three tasks of twenty questions; an answer is a call with the room that was named."""
    experiences = []
    for index, (task, call) in enumerate(CALLS.items()):
        pairs = [(form.format(room), f"{call}(room={room})") for form in ASKED for room in rooms]
        ids = torch.arange(len(pairs)) + 100 * index
        parts = [
            Samples(
                [text for text, _ in pairs[rows]],
                torch.zeros(len(pairs[rows]), dtype=torch.int64),
                ids[rows],
                [answer for _, answer in pairs[rows]],
            )
            for rows in (slice(0, 12), slice(12, 16), slice(16, 20))
        ]
        experiences.append(Experience(Task(index, task, ()), *parts))
    raw = Stream("calls", "domain_incremental", "text", (), tuple(experiences))
    return backbone.encode_stream(replace(raw, answers="tokens"))


def brief_llama(folder: Path):
    """A tiny Llama whose head says the end token every few words, and its stream of calls."""
    backbone = load_backbone(BackboneSettings(str(write_model("llama", folder))))
    stream = calls_stream(backbone)
    be_brief(backbone, stream.experiences[0].train)
    return backbone, stream


def be_brief(backbone: Backbone, rows: Batch, eagerness: float = 8.0) -> None:
    """Let its head say the end token every few words, whatever it reads that is like these rows;
    its logit is about as large as `eagerness`."""
    hidden = backbone(rows.inputs).answers
    assert hidden is not None
    mean = hidden.flatten(0, 1).mean(dim=0)
    backbone.language_head.weight[backbone.inputs.end_token] = (
        eagerness * mean / mean.norm().square()
    )


def calls_job(model: Path) -> dict[str, Any]:
    """A job, but for where it leaves what it does: a model in a folder learns two domains of
    calls."""
    return {
        "name": "calls",
        "stream": {
            "name": "assistant_calls",
            "tasks": ["lights", "climate"],
            "sentences_per_intent": 4,
        },
        "scenario": {"kind": "domain_incremental"},
        "backbone": {"name": str(model)},
        "adapter": {"kind": "lora", "rank": 2},
        "strategy": {"name": "finetune"},
        "training": {"epochs": 1, "batch_size": 8},
    }
