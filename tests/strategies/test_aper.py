"""APER: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from prototype_cases import answers, every_train, features_of, learned


def test_aper_compares_frozen_and_adapted_features_side_by_side(nouns, tiny_bert):
    learner = learned("aper", nouns, tiny_bert)
    data, test = every_train(nouns), nouns.experiences[1].test

    def both(batch):
        return torch.cat([tiny_bert(batch.inputs).features, features_of(learner, batch)], dim=1)

    means = torch.stack([both(data)[data.labels == c].mean(0) for c in range(6)])
    naive = torch.stack([F.cosine_similarity(both(test), mean[None]) for mean in means], dim=1)
    torch.testing.assert_close(answers(learner, test), naive, atol=1e-4, rtol=1e-4)
    assert (both(test)[:, :32] - both(test)[:, 32:]).abs().max() > 0.01


def test_aper_without_an_adapter_is_simplecil(nouns, tiny_bert):
    test = nouns.experiences[1].test
    aper = answers(learned("aper", nouns, tiny_bert, adapter=None), test)
    simple = answers(learned("simplecil", nouns, tiny_bert), test)
    torch.testing.assert_close(aper, simple, atol=1e-5, rtol=1e-5)
