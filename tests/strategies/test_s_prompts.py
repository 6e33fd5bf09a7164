"""S-Prompts: its losses, state and answers against naive versions."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from lamina.backbones.overlay import Overlay
from lamina.core import Batch
from nouns import NO_REPLAY, after, make_learner
from prompt_cases import head_of


def test_s_prompts_loss_is_cross_entropy_of_the_domains_own_head(nouns, tiny_bert):
    learner, data = after(1, "s_prompts", nouns, tiny_bert, adapter="prompt")
    model = learner.model
    prompt = model.adapters["domain_1"].tensors["prompt_embeddings"]
    features = tiny_bert(data.inputs, Overlay(prompts=[prompt])).features
    naive = F.cross_entropy(head_of(model, features, "domain_1_head"), data.labels - 2)
    torch.testing.assert_close(learner.strategy.step(model, data, NO_REPLAY).loss, naive)


def test_s_prompts_centres_are_a_fixed_point_of_scikit_learns_k_means(nouns, tiny_bert):
    learner = make_learner("s_prompts", nouns, tiny_bert, centres=3)
    list(learner.learn())
    for each, centres in zip(nouns.experiences, learner.strategy.state["centres"], strict=True):
        features = F.normalize(tiny_bert(each.train.inputs).features, dim=1).numpy()
        theirs = KMeans(3, init=centres.numpy(), n_init=1).fit(features)
        np.testing.assert_allclose(theirs.cluster_centers_, centres.numpy(), atol=1e-5)


def test_s_prompts_routes_to_the_centre_of_least_l1_distance(nouns, tiny_bert):
    def routed(centres):
        learner = make_learner("s_prompts", nouns, tiny_bert, adapter=None, centres=centres)
        list(learner.learn())
        inputs = Batch.cat([each.test for each in nouns.experiences]).inputs
        query = F.normalize(tiny_bert(inputs).features, dim=1)
        naive = []
        for q in query:
            least = [
                min((q - c).abs().sum() for c in cs) for cs in learner.strategy.state["centres"]
            ]
            naive.append(int(torch.stack(least).argmin()))
        assert learner.strategy.route(learner.model, inputs).tolist() == naive
        return naive

    assert routed(1) != routed(5)
