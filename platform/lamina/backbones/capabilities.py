"""What a frozen model offers to whoever lays something over it, and what it cannot carry."""

from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, cast

from torch import nn

from lamina.backbones.architecture import Architecture
from lamina.backbones.attention import NAME as ATTENTION
from lamina.backbones.positions import (
    ARE_EMBEDDED,
    ARE_GIVEN,
    GRID_BIASES,
    num_first,
    num_positions,
)
from lamina.core import AnswerKind, Modality
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INSTEAD = "allowed: adapter.kind 'lora', 'bottleneck', 'bias', 'layernorm' ..."


@dataclass(frozen=True)
class Capabilities:
    """The widths of one model, the inputs that it takes, and checks of what it can carry.

    A check raises InputError with the reason. The message begins with `key`, where one is given: it
    names the setting of the job that asked.
    """

    model: "PreTrainedModel"
    architecture: Architecture
    modality: Modality
    """What it reads."""
    takes_prefixes: bool
    """Whether its attention can see keys and values put before its own."""
    wanted_length: int | None
    """Tokens of the longest text that the job asked for; None where it did not ask."""

    @cached_property
    def accepts(self) -> frozenset[str]:
        """What the model's forward may be given, by name."""
        return frozenset(signature(self.model.forward).parameters)

    def reads(self, name: str) -> bool:
        """Whether the model has a use for an input that its tokenizer makes. GPT-2 would add the
        embedding of a word for token types, which it does not have."""
        has_types = getattr(self.model.config, "type_vocab_size", 0) > 0
        return name in self.accepts and (has_types or name != "token_type_ids")

    @property
    def word_width(self) -> int:
        """Width of a token that enters the model, and so of a prompt: of a text's embeddings, or
        of an image's tokens before the first layer."""
        if self.modality == "image":
            return self.architecture.width
        return int(self.word_embeddings.weight.shape[1])

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The embedding of a text model's tokens."""
        return cast(nn.Embedding, self.model.get_input_embeddings())

    @property
    def num_heads(self) -> int:
        """Heads of a layer's attention. Raises InputError where layers differ or have none."""
        heads = getattr(self.model.config, "num_attention_heads", None)
        if not isinstance(heads, int):
            raise InputError(f"backbone.name: a {self._type!r} model has no one number of heads")
        return heads

    @cached_property
    def num_first(self) -> int:
        """Tokens of an image before which no prompt stands: 1, the CLS, where the model has one."""
        return num_first(self.model)

    @property
    def decoder_start(self) -> int:
        """The token that a decoder reads first."""
        config = self.model.config
        start = getattr(config, "decoder_start_token_id", None)
        return int(config.bos_token_id if start is None else start)

    @property
    def takes_positions(self) -> bool:
        """Whether the model can be given the positions of tokens."""
        return "position_ids" in self.accepts

    @property
    def counts_prefixes(self) -> bool:
        """Whether a prefix takes the first positions of a text, as keys and values that the model
        has cached do, and so PEFT's prefixes."""
        return {"past_key_values", "position_ids"} <= self.accepts

    @cached_property
    def may_drop_padding(self) -> bool:
        """Whether a token's position is in its embedding or is given, attention goes through
        Lamina's own function, and the device is a CPU."""
        config = self.model.config
        is_encoder = not getattr(config, "is_decoder", False)
        return (
            (self._type in ARE_GIVEN or (self._type in ARE_EMBEDDED and is_encoder))
            and config._attn_implementation == ATTENTION
            and self.model.device.type == "cpu"
        )

    def check_prefixes(self, key: str) -> None:
        """Refuse a model where no keys and values can be put before those of the layers."""
        architecture = self.architecture
        if not self.takes_prefixes:
            why = "transformers' code of its attention takes no keys and values from outside"
        elif not architecture.attentions:
            why = "the projections of its attention are not found"
        elif architecture.num_layers < getattr(self.model.config, "num_hidden_layers", 0):
            why = "its depths share one layer, so no depth can have a prefix of its own"
        elif architecture.is_hierarchical:
            why = "its layers see windows of an image, and differ in width"
        else:
            return
        raise InputError(
            f"{key} cannot reach the attention of a {self._type!r} backbone: {why} ({INSTEAD})"
        )

    def check_prompts(self, length: int, key: str) -> None:
        """Refuse a model where no tokens can be put before the input's, or fewer than `length`."""
        architecture, config = self.architecture, self.model.config
        why = None
        if self.modality == "text":
            if "inputs_embeds" not in self.accepts:
                why = "transformers' code of it takes no embeddings"
        elif architecture.is_hierarchical or not architecture.attentions:
            why = "its tokens form a grid"
        elif architecture.rotates_keys or any(getattr(config, name, False) for name in GRID_BIASES):
            why = "its attention knows tokens by their place in the image"
        if why is not None:
            raise InputError(f"{key} cannot enter a {self._type!r} backbone: {why} ({INSTEAD})")
        self.check_positions(length, key)

    def check_positions(self, added: int, key: str, length: int | None = None) -> None:
        """Refuse a model that has too few positions for texts of `length` tokens and `added` more.

        `length` is by default the longest that the job asked for. Where the job did not ask, texts
        are checked when they come.
        """
        known, longest = num_positions(self.model), length or self.wanted_length
        if known is not None and longest is not None and longest + added > known:
            raise InputError(
                f"{key} adds {added} positions to texts of {longest} tokens, and a "
                f"{self._type!r} backbone has {known} (backbone.max_length: {known - added} "
                "at most)"
            )

    def check_projections(self, key: str) -> None:
        """Refuse a model whose keys and values are not simply what a layer projects of a token."""
        architecture = self.architecture
        self.check_prefixes(key)
        if architecture.is_fused:
            why = f"{architecture.projections[0]!r} computes query, key and value together"
        elif architecture.rotates_keys:
            why = "its attention changes keys by their position after they are projected"
        elif architecture.norms_before_attention is None:
            why = "what its attention reads is unknown"
        else:
            return
        raise InputError(
            f"{key} cannot be projected by a {self._type!r} backbone: {why} ({INSTEAD})"
        )

    def check_answers(self, answers: AnswerKind) -> None:
        """Refuse a model that cannot give such answers."""
        architecture = self.architecture
        if answers == "classes" and architecture.has_decoder:
            raise InputError(
                f"backbone.tower: 'both' is for answers of tokens, and the encoder of a "
                f"{self._type!r} model knows classes (allowed: encoder)"
            )
        if answers == "classes" or architecture.has_decoder:
            return
        if self.modality == "text" and getattr(self.model.config, "is_encoder_decoder", False):
            raise InputError(
                f"backbone.tower: the encoder of a {self._type!r} model cannot answer in "
                "tokens (allowed: both, with its decoder)"
            )
        if self.modality != "text" or not architecture.is_causal:
            raise InputError(
                f"backbone.name: a {self._type!r} model cannot answer in tokens (allowed: "
                "causal language models, as 'smollm2', and those with encoder and decoder)"
            )

    @property
    def _type(self) -> str:
        return self.architecture.model_type
