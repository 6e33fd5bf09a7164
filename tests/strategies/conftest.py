"""The small stream of nouns for two backbones."""

import pytest

from nouns import nouns_stream


@pytest.fixture(scope="session")
def nouns(tiny_bert):
    """The small stream for the tiny BERT."""
    return nouns_stream(tiny_bert)


@pytest.fixture(scope="session")
def minilm_nouns(minilm):
    """The small stream for MiniLM."""
    return nouns_stream(minilm)
