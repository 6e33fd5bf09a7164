"""The small stream of nouns for two backbones."""

import pytest

from nouns import nouns_stream, shapes_stream


@pytest.fixture(scope="session")
def nouns(tiny_bert):
    """The small stream for the tiny BERT."""
    return nouns_stream(tiny_bert)


@pytest.fixture(scope="session")
def minilm_nouns(minilm):
    """The small stream for MiniLM."""
    return nouns_stream(minilm)


@pytest.fixture(scope="session")
def shapes(tiny_vit):
    """The small stream of pictures for the tiny vision transformer."""
    return shapes_stream(tiny_vit)
