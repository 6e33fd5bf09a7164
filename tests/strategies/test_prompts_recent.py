"""CPrompt, ConvPrompt, VQ-Prompt, OVOR, PGP and MoCL against naive versions from their papers."""

import pytest
import torch

from nouns import make_learner
from recent_prompt_cases import predict, small

NAMES = ["cprompt", "convprompt", "vq_prompt", "ovor", "pgp", "mocl"]


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_where_a_picture_is_bright(name, shapes, tiny_vit):
    adapter = "prefix" if name == "mocl" else None
    learner = make_learner(name, shapes, tiny_vit, adapter=adapter, **small(name))
    reports = list(learner.learn())
    assert len(reports) == 3
    data = shapes.experiences[1].test
    logits = predict(learner, data)
    assert logits.shape == (len(data), 6)
    assert logits.isfinite().all()
    alone = torch.cat([predict(learner, one) for one in data.chunks(1)])
    torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("cprompt", {"length": 0}, "strategy.length"),
        ("cprompt", {"smoothing": 0.0}, "strategy.smoothing"),
        ("convprompt", {"kernel": 0}, "strategy.kernel"),
        ("convprompt", {"max_kernels": 9}, "strategy.max_kernels"),
        ("convprompt", {"anchoring": -1.0}, "strategy.anchoring"),
        ("vq_prompt", {"length": 7}, "strategy.length"),
        ("vq_prompt", {"temperature": 0.0}, "strategy.temperature"),
        ("ovor", {"e_length": 3}, "strategy.e_length"),
        ("ovor", {"neighbours": 0}, "strategy.neighbours"),
        ("pgp", {"top_k": 11}, "strategy.top_k"),
        ("pgp", {"keys": 1.5}, "strategy.keys"),
        ("mocl", {"scale": -1.0}, "strategy.scale"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_key(name, settings, key, nouns, tiny_bert):
    with pytest.raises(ValueError, match=key):
        make_learner(name, nouns, tiny_bert, **settings)
