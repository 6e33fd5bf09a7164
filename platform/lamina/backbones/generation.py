"""Answers that a frozen model generates behind prompts, under an overlay."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import Tensor

from lamina.backbones.answers import prompts_of
from lamina.backbones.calls import Call, Hidden
from lamina.backbones.decoding import decoded, decoded_by_decoder, left_padded, likeliest
from lamina.backbones.features import FeatureStore
from lamina.backbones.forward import Forward, prompt_of
from lamina.backbones.language_head import LanguageHead
from lamina.backbones.packing import InTurn, are_shared
from lamina.backbones.positions import first_position
from lamina.core import DECODED


@dataclass(frozen=True)
class Generation:
    """A model that answers in tokens: its forwards, its head, and the token that ends an answer."""

    forward: Forward
    head: LanguageHead
    end: int

    def run(self, call: Call, features: FeatureStore | None) -> Hidden:
        """The features of N prompts, and what is generated behind them."""
        if self.forward.architecture.has_decoder:
            return self._by_decoder(call, features)
        return self._behind_prompts(call)

    def _behind_prompts(self, call: Call) -> Hidden:
        """An overlay's prompt comes first, then padding, then the text: so a prompt is in the same
        place for all rows."""
        forward, overlay = self.forward, call.overlay
        capabilities = forward.capabilities
        texts = left_padded(call.inputs)
        prompt = prompt_of(overlay, call.num_rows)
        shift = overlay.position_shift if capabilities.counts_prefixes else 0
        first = first_position(forward.model) + shift if capabilities.takes_positions else None
        # A prefix that is computed of the tokens depends on all of them.
        computed = any(callable(each) for own in overlay.prefixes.values() for each in own)

        def run(arguments: Mapping[str, Any]) -> Tensor:
            return cast(Tensor, forward.run(arguments, overlay.stand_in).last_hidden_state)

        with forward.laid_over(overlay):
            generated, tokens = decoded(
                run,
                self._next(call),
                forward.text_arguments(texts, prompt, 0),
                max_new_tokens=call.max_new_tokens_of_rows(),
                end=self.end,
                first_position=first,
                cache=None if computed else self._new_cache(),
                embed=capabilities.word_embeddings,
                drops=_may_drop(call),
            )
        length = 0 if prompt is None else prompt.shape[1]
        return replace(forward.pooled(tokens, texts["attention_mask"], length), generated=generated)

    def _by_decoder(self, call: Call, features: FeatureStore | None) -> Hidden:
        """The encoder reads the prompts once, and the decoder generates one token after the
        other."""
        forward, overlay = self.forward, call.overlay
        plan = forward.plan(replace(call, inputs=prompts_of(call.inputs)), features)
        with forward.laid_over(overlay):
            generated, encoded = decoded_by_decoder(
                lambda arguments: forward.run(arguments, overlay.stand_in),
                self._next(call),
                plan.arguments,
                call.inputs[DECODED][:, :1],
                max_new_tokens=call.max_new_tokens_of_rows(),
                end=self.end,
                cache=self._new_cache(),
                drops=_may_drop(call),
            )
        return replace(forward.pooled(encoded, plan.mask, plan.num_prompts), generated=generated)

    def _next(self, call: Call) -> Callable[[Tensor], Tensor]:
        """The next tokens, int64 [N], of hidden states [N, dim]."""
        choose = call.choose or likeliest
        return lambda hidden: choose(self.head(hidden))

    def _new_cache(self) -> Any:
        """Where transformers keeps keys and values of one generation."""
        from transformers import DynamicCache, EncoderDecoderCache

        config = self.forward.model.config
        if self.forward.architecture.has_decoder:
            return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        return DynamicCache(config=config)


def _may_drop(call: Call) -> bool:
    """Whether rows are generated the same without others: the overlay treats all alike, and none is
    drawn together with others."""
    overlay = call.overlay
    patches = [each for own in overlay.patches.values() for each in own]
    prefixes = [each for own in overlay.prefixes.values() for each in own]
    return (
        call.choose is None
        and overlay.stand_in is None
        and not overlay.input_patches
        and are_shared(patches)
        and not any(isinstance(each, InTurn) for each in patches)
        and not any(callable(each) or each[0].dim() > 2 for each in prefixes)
    )
