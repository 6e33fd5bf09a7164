"""The positions of tokens: which a model knows, and how it knows them."""

from torch import nn

EMBEDDINGS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
"""How models call the embedding of positions."""
GRID_BIASES = ("use_relative_position_bias", "use_shared_relative_position_bias")
"""Settings of vision transformers whose attention adds a number for each pair of positions in the
image."""
ARE_EMBEDDED = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
"""Encoders whose layers know a token's position from its embedding alone."""
ARE_GIVEN = (
    *("gemma", "gpt2", "gpt_neox", "llama", "mistral"),
    *("opt", "phi", "phi3", "qwen2", "qwen3"),
)
"""Causal models that know a token's position from the `position_ids` that they are given."""


def num_positions(model: nn.Module) -> int | None:
    """How many positions of tokens a model has learned; None where it computes them."""
    found = _embedding(model)
    return None if found is None else found.num_embeddings - first_position(model)


def first_position(model: nn.Module) -> int:
    """The number that a model gives to the first token of a text."""
    found = _embedding(model)
    # RoBERTa and its kin count from behind the number of their padding.
    return 0 if found is None or found.padding_idx is None else found.padding_idx + 1


def num_first(model: nn.Module) -> int:
    """Tokens of an image before which no prompt stands: 1, the CLS, where the model has one."""
    names = (name for name, _ in model.named_parameters())
    return int(any(name.endswith(("cls_token", "class_embedding")) for name in names))


def _embedding(model: nn.Module) -> nn.Embedding | None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in EMBEDDINGS:
            return module
    return None
