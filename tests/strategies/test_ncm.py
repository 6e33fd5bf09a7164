"""NCM: its losses, state and answers against naive versions."""

import torch
from sklearn.neighbors import NearestCentroid

from prototype_cases import answers, every_train, learned


def test_ncm_answers_with_the_nearest_class_mean(nouns, tiny_bert):
    learner = learned("ncm", nouns, tiny_bert)
    data, test = every_train(nouns), nouns.experiences[1].test
    features, query = tiny_bert(data.inputs).features, tiny_bert(test.inputs).features
    naive = torch.stack(
        [-(query - features[data.labels == c].mean(0)).square().sum(1) for c in range(6)], dim=1
    )
    torch.testing.assert_close(answers(learner, test), naive, atol=1e-3, rtol=1e-4)
    theirs = NearestCentroid().fit(features.numpy(), data.labels.numpy()).predict(query.numpy())
    assert answers(learner, test).argmax(1).tolist() == theirs.tolist()
