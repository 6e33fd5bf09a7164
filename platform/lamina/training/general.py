"""Change of general ability: how a language model that learns a stream answers prompts that have
nothing to do with the stream, compared with the frozen model.

TRACE (Wang et al., 2023) reports the change of benchmarks as its "general ability delta". Here it
is exact and needs no benchmark. The prompts are those of `general_prompts.txt`, with the frozen
model's own greedy answers: a model that did not change has the same perplexity on them as the
frozen one.
"""

from importlib.resources import files

import torch

from lamina.backbones.backbone import Backbone
from lamina.core import Batch, Samples
from lamina.training.evaluate import AgainstFrozen

TOKENS = 24
"""Tokens of an answer, at most."""


def general_rows(backbone: Backbone) -> Batch:
    """The prompts, with the frozen model's answers."""
    prompts = (files("lamina.training") / "general_prompts.txt").read_text("utf-8").splitlines()
    asked = backbone.inputs.encode_prompts(prompts, TOKENS)
    device = backbone.device
    said = backbone.generate(
        {name: each.to(device) for name, each in asked.items()}, max_new_tokens=TOKENS
    )
    none = torch.zeros(len(prompts), dtype=torch.int64)
    # In words, and so with an end, as every answer has one.
    texts = backbone.inputs.texts_of(said)
    return backbone.encode(Samples(prompts, none, torch.arange(len(prompts)), texts))


def general_metrics(found: AgainstFrozen) -> dict[str, float]:
    """`general/perplexity` of the frozen model's answers, that of the frozen model itself
    (`general/frozen_perplexity`), and `general/kl`."""
    return {
        "general/perplexity": found.perplexity,
        "general/frozen_perplexity": found.frozen_perplexity,
        "general/kl": found.kl,
    }
