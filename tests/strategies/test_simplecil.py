"""SimpleCIL: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.core import Batch
from nouns import make_learner


def test_simplecil_compares_with_class_means_by_cosine(nouns, tiny_bert):
    learner = make_learner("simplecil", nouns, tiny_bert)
    list(learner.learn())
    train = Batch.cat([each.train for each in nouns.experiences])
    features = tiny_bert(train.inputs).features
    means = torch.stack([features[train.labels == c].mean(0) for c in range(6)])
    query = tiny_bert(nouns.experiences[1].test.inputs).features
    naive = torch.stack([F.cosine_similarity(query, mean[None]) for mean in means], dim=1)
    logits = learner.strategy.predict(learner.model, nouns.experiences[1].test.inputs, None)
    torch.testing.assert_close(logits, naive, atol=1e-4, rtol=1e-4)
