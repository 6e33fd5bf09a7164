"""Every adapter kind under the strategies that ask the most of one: replay, and the gradient of
every sample."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from lamina.adapters import kind_names
from lamina.adapters.model import HEAD, MAIN, per_sample_gradients
from nouns import after, make_learner, nouns_stream, shapes_stream


@pytest.fixture(scope="module")
def streams(tiny_bert, tiny_vit):
    """The small streams of either modality, with their backbones."""
    return {
        "text": (nouns_stream(tiny_bert), tiny_bert),
        "image": (shapes_stream(tiny_vit), tiny_vit),
    }


@pytest.mark.parametrize(("strategy", "modality"), [("er", "image"), ("ewc", "text")])
@pytest.mark.parametrize("adapter", kind_names())
def test_replay_and_ewc_train_every_kind(adapter, strategy, modality, streams):
    stream, backbone = streams[modality]
    learner = make_learner(strategy, stream, backbone, adapter=adapter)
    first = {k: t.detach().clone() for k, t in learner.model.adapters[MAIN].tensors.items()}
    reports = list(learner.learn())
    assert len(reports) == 3
    trained = learner.model.adapters[MAIN].tensors
    assert trained.keys() == first.keys()
    assert all(tensor.isfinite().all() for tensor in trained.values())
    assert any(not torch.equal(trained[name], first[name]) for name in first)


@pytest.mark.parametrize("modality", ["text", "image"])
@pytest.mark.parametrize("adapter", kind_names())
def test_per_sample_gradients_of_every_kind_are_those_of_each_sample_alone(
    adapter, modality, streams
):
    stream, backbone = streams[modality]
    learner, data = after(1, "finetune", stream, backbone, adapter=adapter)
    model = learner.model
    gradients = per_sample_gradients(
        model, data.inputs, lambda logits: cross_entropy(logits, data.labels, reduction="none")
    )
    parameters = model.parameters()
    assert gradients.keys() == parameters.keys()
    assert any(gradients[name].abs().sum() > 0 for name in gradients if not name.startswith(HEAD))
    for row, one in enumerate(data.chunks(1)):
        loss = cross_entropy(model(one.inputs).logits, one.labels)
        alone = torch.autograd.grad(loss, list(parameters.values()))
        for name, gradient in zip(parameters, alone, strict=True):
            torch.testing.assert_close(gradients[name][row], gradient, atol=1e-5, rtol=1e-3)
