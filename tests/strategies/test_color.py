"""CoLoR: its losses, state and answers against naive versions."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans

from lamina.core import Batch
from lamina.training.settings import TrainingSettings
from nouns import NO_REPLAY, after, make_learner
from online_lora_cases import tensors_of, trained_on


def test_color_learns_each_task_with_its_own_lora_and_classifier(nouns, tiny_bert):
    learner, data = after(1, "color", nouns, tiny_bert)
    model = learner.model
    assert {name.split(".")[0] for name in model.parameters()} == {"task_1", "head_1"}
    loss = learner.strategy.step(model, data, NO_REPLAY).loss
    features = model(data.inputs, adapters=["task_1"]).features
    head = model.adapters["head_1"].tensors
    logits = features @ head["weight"].T + head["bias"]
    torch.testing.assert_close(loss, F.cross_entropy(logits, data.labels - 2))
    kept = tensors_of(learner, "task_0")
    trained_on(learner, data)
    assert all(torch.equal(kept[k], v) for k, v in tensors_of(learner, "task_0").items())


def test_color_centres_are_a_fixed_point_of_k_means_on_the_frozen_features(nouns, tiny_bert):
    learner = make_learner("color", nouns, tiny_bert, clusters=3)
    list(learner.learn())
    for experience, centres in zip(
        nouns.experiences, learner.strategy.state["centres"], strict=True
    ):
        features = tiny_bert(experience.train.inputs).features.detach().numpy()
        theirs = KMeans(3, init=centres.numpy(), n_init=1).fit(features)
        torch.testing.assert_close(
            centres, torch.from_numpy(theirs.cluster_centers_), atol=1e-5, rtol=1e-4
        )


def test_color_routes_to_the_task_of_the_nearest_centre_and_answers_with_it(nouns, tiny_bert):
    learner = make_learner("color", nouns, tiny_bert, clusters=2)
    list(learner.learn())
    strategy, model = learner.strategy, learner.model
    data = Batch.cat([each.test for each in nouns.experiences])
    routed = strategy.route(model, data.inputs)
    logits = strategy.predict(model, data.inputs, None)
    assert logits.shape == (len(data), 6)
    for row, one in enumerate(data.chunks(1)):
        feature = tiny_bert(one.inputs).features[0]
        distances = [
            min(float((feature - centre).norm()) for centre in centres)
            for centres in strategy.state["centres"]
        ]
        task = distances.index(min(distances))
        assert int(routed[row]) == task
        own = model(one.inputs, adapters=[f"task_{task}"], head=f"head_{task}").logits[0]
        expected = torch.full((6,), -math.inf)
        expected[2 * task : 2 * task + 2] = own.detach()
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-4)
    told = strategy.predict(model, data.inputs, nouns.experiences[2].task)
    assert told[:, 4:].isfinite().all()
    assert (told[:, :4] == -math.inf).all()


def test_color_number_of_centres_moves_the_routing(nouns, tiny_bert):
    data = Batch.cat([each.test for each in nouns.experiences])

    def routed(clusters):
        learner = make_learner("color", nouns, tiny_bert, clusters=clusters)
        list(learner.learn())
        assert [len(each) for each in learner.strategy.state["centres"]] == [clusters] * 3
        return learner.strategy.route(learner.model, data.inputs)

    assert not torch.equal(routed(1), routed(8))


def test_color_on_domains_gives_each_domain_its_classifier_of_the_same_classes(nouns, tiny_bert):
    classes = (1, 0)
    experiences = tuple(
        replace(
            each,
            task=replace(each.task, classes=classes),
            **{
                part: replace(
                    each.part(part),
                    labels=each.part(part).labels % 2,
                    task=replace(each.task, classes=classes),
                )
                for part in ("train", "validation", "test")
            },
        )
        for each in nouns.experiences
    )
    stream = replace(nouns, scenario="domain_incremental", experiences=experiences)
    learner = make_learner(
        "color",
        stream,
        tiny_bert,
        training=TrainingSettings(epochs=8, batch_size=4, learning_rate=2e-2),
    )
    list(learner.learn())
    assert learner.strategy.state["classes"] == [[1, 0]] * 3
    for experience in experiences:
        rows = experience.train
        logits = learner.strategy.predict(learner.model, rows.inputs, experience.task)
        assert (logits.argmax(1) == rows.labels).float().mean() > 0.7
