"""Padding that no answer depends on: on the right, under a mask, by any token."""

from typing import Any

from lamina.registry import InputError


def with_padding(tokenizer: Any) -> Any:
    """A tokenizer that pads on the right, so that a token's position does not depend on the texts
    beside its own.

    Language models often have no token for padding: then the end of the text pads, or any other
    special token. It is masked. Raises InputError where there is no special token at all.
    """
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        special = [tokenizer.eos_token, tokenizer.unk_token, *tokenizer.all_special_tokens]
        named = next((token for token in special if token is not None), None)
        if named is None:
            raise InputError(
                "backbone.name: its tokenizer has neither a padding token nor another special one "
                "(set pad_token in its tokenizer_config.json)"
            )
        tokenizer.pad_token = named
    return tokenizer
