"""Prefixes that are computed from the tokens that enter their layer."""

import torch

from lamina.backbones.overlay import Overlay
from lamina.core import generator_of


def keys_and_values(seed):
    generator = generator_of(seed)
    return torch.randn(3, 32, generator=generator), torch.randn(3, 32, generator=generator)


def test_a_computed_prefix_is_the_same_as_its_keys_and_values_given(tiny_bert, sentences):
    keys, values = keys_and_values(0)
    given = tiny_bert(sentences.inputs, Overlay(prefixes={1: [(keys, values)]})).features
    computed = Overlay(prefixes={1: [lambda tokens: (keys, values)]})
    torch.testing.assert_close(tiny_bert(sentences.inputs, computed).features, given)
    assert (given - tiny_bert(sentences.inputs).features).abs().max() > 1e-3


def test_a_computed_prefix_sees_what_enters_its_layer_under_the_same_overlay(tiny_bert, sentences):
    before = Overlay(prefixes={0: [keys_and_values(0)]})
    with torch.no_grad():
        hidden = tiny_bert.model(**sentences.inputs, output_hidden_states=True).hidden_states
    seen = {}

    def reader(name):
        def read(tokens):
            seen[name] = tokens
            return keys_and_values(1)

        return read

    tiny_bert(sentences.inputs, Overlay(prefixes={1: [reader("alone")]}))
    tiny_bert(sentences.inputs, before | Overlay(prefixes={1: [reader("after")]}))
    torch.testing.assert_close(seen["alone"], hidden[1])
    assert (seen["after"] - hidden[1]).abs().max() > 1e-3


def test_a_computed_prefix_sees_the_tokens_of_an_image_before_the_layers_norm(tiny_vit):
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator_of(2))}
    seen = {}

    def read(tokens):
        seen["tokens"] = tokens
        return keys_and_values(1)

    tiny_vit(pixels, Overlay(prefixes={0: [read]}))
    with torch.no_grad():
        embedded = tiny_vit.model.embeddings(pixels["pixel_values"])
    torch.testing.assert_close(seen["tokens"], embedded)


def test_each_row_may_have_its_own_computed_prefix_and_the_gradient_reaches_it(tiny_vit):
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32, generator=generator_of(2))}
    weight = torch.randn(32, 32, generator=generator_of(3), requires_grad=True)

    def own(tokens):
        keys = (tokens[:, :1] + tokens.mean(dim=1, keepdim=True)) @ weight
        return keys, keys

    overlay = Overlay(prefixes={1: [own]})
    together = tiny_vit(pixels, overlay).features
    one = {"pixel_values": pixels["pixel_values"][1:]}
    torch.testing.assert_close(tiny_vit(one, overlay).features, together[1:])
    (gradient,) = torch.autograd.grad(together[:, 0].sum(), weight)
    assert gradient.abs().max() > 0


def test_nothing_of_a_prefix_is_left_after_its_forward(tiny_bert, sentences):
    before = tiny_bert(sentences.inputs).features
    tiny_bert(sentences.inputs, Overlay(prefixes={0: [lambda tokens: keys_and_values(0)]}))
    assert torch.equal(tiny_bert(sentences.inputs).features, before)
