import pytest
import torch

from lamina.adapters import kind_class
from lamina.adapters.model import HEAD, MAIN, AdaptedModel
from lamina.core import generator_of
from lamina.training.checkpoint import pack, unpack


@pytest.fixture
def model(tiny_bert):
    model = AdaptedModel(tiny_bert, kind_class("lora")(), seed=0)
    model.add()
    model.grow_head(3)
    return model


def noisy(model, name):
    generator = generator_of(1, "noise")
    with torch.no_grad():
        for tensor in model.adapters[name].tensors.values():
            tensor += 0.3 * torch.randn(tensor.shape, generator=generator)


def test_a_growing_head_keeps_its_rows(model, sentences):
    before = model(sentences.inputs).logits
    model.grow_head(5)
    after = model(sentences.inputs).logits
    assert after.shape == (6, 5)
    torch.testing.assert_close(after[:, :3], before)
    model.grow_head(4)
    assert model.num_classes() == 5


def test_new_adapters_depend_on_seed_and_name(tiny_bert):
    def first_a(seed, name):
        model = AdaptedModel(tiny_bert, kind_class("lora")(), seed)
        return next(iter(model.add(name).tensors.values()))

    assert torch.equal(first_a(0, "x"), first_a(0, "x"))
    assert not torch.equal(first_a(0, "x"), first_a(1, "x"))
    assert not torch.equal(first_a(0, "x"), first_a(0, "y"))


def test_what_is_frozen_is_not_trained(model):
    assert {name.split(".")[0] for name in model.parameters()} == {MAIN, HEAD}
    model.freeze(MAIN)
    assert {name.split(".")[0] for name in model.parameters()} == {HEAD}


def test_a_copy_is_a_frozen_teacher_beside_the_original(model, sentences):
    noisy(model, MAIN)
    before = model(sentences.inputs).logits.detach()
    model.copy(MAIN, "teacher")
    model.copy(HEAD, "teacher_head")
    noisy(model, MAIN)
    noisy(model, HEAD)
    assert (model(sentences.inputs).logits - before).abs().max() > 1e-3
    taught = model(sentences.inputs, adapters=["teacher"], head="teacher_head").logits
    torch.testing.assert_close(taught, before)
    assert not model.adapters["teacher"].trainable
    assert model.active == [MAIN]


def test_many_adapters_on_one_backbone_never_see_each_other(tiny_bert, sentences):
    models = []
    for seed in range(3):
        model = AdaptedModel(tiny_bert, kind_class("lora")(), seed)
        model.add()
        model.grow_head(3)
        models.append(model)
        noisy(model, MAIN)
    alone = [model(sentences.inputs).logits for model in models]
    noisy(models[1], MAIN)
    assert torch.equal(models[0](sentences.inputs).logits, alone[0])
    assert torch.equal(models[2](sentences.inputs).logits, alone[2])
    assert torch.equal(
        models[0].frozen_features(sentences.inputs), tiny_bert(sentences.inputs).features
    )


def test_a_job_without_adapters_trains_a_head_on_the_frozen_backbone(tiny_bert, sentences):
    model = AdaptedModel(tiny_bert, None, seed=0)
    assert model.add() is None
    model.grow_head(2)
    assert list(model.parameters()) == ["head.weight", "head.bias"]
    torch.testing.assert_close(
        model(sentences.inputs).features, tiny_bert(sentences.inputs).features
    )


def test_a_restored_model_answers_alike(model, tiny_bert, sentences):
    noisy(model, MAIN)
    model.copy(MAIN, "teacher")
    model.add_tensors("pool", {"keys": torch.ones(2, 3)})
    model.freeze("pool")
    restored = AdaptedModel(tiny_bert, kind_class("lora")(), seed=5)
    restored.load_state_dict(unpack(pack(model.state_dict())))
    assert torch.equal(restored(sentences.inputs).logits, model(sentences.inputs).logits)
    assert restored.parameters().keys() == model.parameters().keys()
    assert restored.adapters["pool"].kind is None
