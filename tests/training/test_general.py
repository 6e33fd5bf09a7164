"""What is measured of language models beside R."""

from dataclasses import replace

import pytest
import torch

from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.core import IGNORED
from lamina.training.checkpoint import pack, unpack
from lamina.training.evaluate import against_frozen
from lamina.training.settings import TrainingSettings
from language_models import calls_stream, write_model
from nouns import make_learner

TRAINING = TrainingSettings(epochs=2, batch_size=4, learning_rate=3e-2, drift=True, general=True)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    backbone = load_backbone(
        BackboneSettings(str(write_model("llama", tmp_path_factory.mktemp("m"))))
    )
    return backbone, calls_stream(backbone)


def learner_of(llama, **changed):
    backbone, stream = llama
    return make_learner("finetune", stream, backbone, training=replace(TRAINING, **changed))


def test_what_has_learned_nothing_is_the_frozen_model(llama):
    learner = learner_of(llama)
    data = learner.stream.experiences[0].test
    found = against_frozen(learner.strategy, learner.model, data, None, 3)
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert found.perplexity == pytest.approx(found.frozen_perplexity, rel=1e-5)


def test_divergence_and_perplexity_are_means_over_tokens(llama):
    learner = learner_of(llama)
    next(learner.learn())
    data = learner.stream.experiences[0].test
    with torch.no_grad():
        now = learner.model(data.inputs).logits.log_softmax(-1)
        bare = learner.model(data.inputs, adapters=[]).logits.log_softmax(-1)
    counts = data.labels != IGNORED
    kl = (bare.exp() * (bare - now)).sum(-1)[counts].mean()
    right = -now.gather(2, data.labels.clamp_min(0)[:, :, None])[:, :, 0][counts].mean()
    found = against_frozen(learner.strategy, learner.model, data, None, 2)
    assert found.kl == pytest.approx(float(kl), rel=1e-3)
    assert found.perplexity == pytest.approx(float(right.exp()), rel=1e-4)


def test_a_report_says_how_far_a_model_went_from_the_frozen_one(llama):
    learner = learner_of(llama, measure="slot_f1", max_new_tokens=8)
    reports = learner.learn()
    first = next(reports).metrics
    assert first["general/kl"] > 0
    assert first["general/perplexity"] > first["general/frozen_perplexity"]
    assert first["drift/kl"] > 0
    assert 0 <= first["test/average_slot_f1"] <= 1
    assert not any(
        "accuracy" in name.removeprefix("test/criterion_")
        for name in first
        if not name.startswith(("validation/criterion", "test/criterion"))
    )
    resumed = learner_of(llama, measure="slot_f1", max_new_tokens=8)
    resumed.load_state_dict(unpack(pack(learner.state_dict())))
    assert resumed.scores.metrics() == learner.scores.metrics()
