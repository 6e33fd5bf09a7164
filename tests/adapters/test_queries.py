"""The query of an input."""

import pytest
import torch

from lamina.adapters.model import AdaptedModel
from lamina.adapters.queries import queries, query_width
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.core import Samples
from lamina.memory.token_rows import taken_apart

ASKED = ["turn on the light", "wake me at seven", "light"]


def naive(backbone, words):
    """Number by number, the largest that any word has there."""
    table = backbone.capabilities.word_embeddings.weight
    embedded = [table[word].tolist() for word in words]
    return torch.tensor([max(column) for column in zip(*embedded, strict=True)])


def samples(targets=None):
    zeros = torch.zeros(len(ASKED), dtype=torch.int64)
    return Samples(ASKED, zeros, torch.arange(len(ASKED)), targets)


@pytest.mark.parametrize("answers", [["a", "on", "a longer answer"], ["b c d", "off", "b"]])
def test_the_query_of_a_text_is_the_maximum_over_the_words_of_its_prompt(
    tiny_language_model, answers
):
    backbone = load_backbone(BackboneSettings(str(tiny_language_model)))
    model = AdaptedModel(backbone, None, 0)
    batch = backbone.encode(samples(answers))
    found = queries(model, batch.inputs)
    assert found.shape == (3, query_width(model))
    for row, (prompt, _) in zip(found, taken_apart(batch), strict=True):
        torch.testing.assert_close(row, naive(backbone, prompt))


def test_the_query_of_a_text_without_an_answer_does_not_see_padding(tiny_bert):
    model = AdaptedModel(tiny_bert, None, 0)
    inputs = tiny_bert.encode(samples()).inputs
    together = queries(model, inputs)
    for row, text in zip(together, ASKED, strict=True):
        one = Samples([text], torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))
        assert torch.equal(row, queries(model, tiny_bert.encode(one).inputs)[0])


def test_the_query_of_an_image_is_its_frozen_feature(tiny_vit):
    model = AdaptedModel(tiny_vit, None, 0)
    pictures = [torch.full((8, 8, 3), shade, dtype=torch.uint8) for shade in (0, 90, 255)]
    batch = tiny_vit.encode(Samples(pictures, *torch.arange(3).expand(2, -1)))
    inputs = batch.to(tiny_vit.device).inputs
    assert torch.equal(queries(model, inputs), model.frozen_features(inputs))
    assert query_width(model) == tiny_vit.dim
