"""What the frozen layers make of a sample is computed once, and is what they would make of it."""

from contextlib import contextmanager

import pytest
import torch
from safetensors.torch import save_file

from lamina.adapters import kind_class
from lamina.adapters.model import AdaptedModel
from lamina.backbones.features import FeatureStore, _Shelf
from lamina.backbones.load import load_backbone
from lamina.backbones.overlay import Overlay
from lamina.backbones.settings import BackboneSettings
from lamina.core import KEYS, PARTS, Batch, Samples
from nouns import nouns_stream, shapes_stream

ROOM = 10**9


def keeping(folder, cache, max_bytes=ROOM):
    backbone = load_backbone(BackboneSettings(str(folder)))
    backbone.keep_features(cache, max_bytes)
    return backbone


def adapted(backbone, layers, seed=0, kind="lora"):
    """A model whose adapter does something, in some layers."""
    model = AdaptedModel(backbone, kind_class(kind)(layers=layers), seed)
    model.add()
    for tensor in model.adapters["main"].tensors.values():
        tensor.data += 0.05
    return model


@pytest.mark.parametrize("layers", [None, (1,), (0,)])
def test_features_of_texts_are_what_the_whole_model_says(
    tiny_bert, tiny_bert_folder, tmp_path, layers
):
    kept = keeping(tiny_bert_folder, tmp_path)
    plain, known = nouns_stream(tiny_bert), nouns_stream(kept)
    ours, theirs = adapted(kept, layers), adapted(tiny_bert, layers)
    for one, other in zip(known.experiences, plain.experiences, strict=True):
        rows = torch.tensor([7, 0, 3, 3])
        mine, whole = one.train[rows].trimmed().inputs, other.train[rows].trimmed().inputs
        torch.testing.assert_close(ours(mine).features, theirs(whole).features, rtol=0, atol=2e-6)
        torch.testing.assert_close(
            ours.frozen_features(mine), theirs.frozen_features(whole), rtol=0, atol=2e-6
        )


def test_features_of_pictures_are_what_the_whole_model_says(tiny_vit, tiny_vit_folder, tmp_path):
    kept = keeping(tiny_vit_folder, tmp_path)
    mine, whole = (shapes_stream(each).experiences[1].test.inputs for each in (kept, tiny_vit))
    ours, theirs = adapted(kept, (1,)), adapted(tiny_vit, (1,))
    torch.testing.assert_close(ours(mine).features, theirs(whole).features, rtol=0, atol=2e-6)


def test_gradients_are_those_of_the_whole_model(tiny_bert, tiny_bert_folder, tmp_path):
    kept = keeping(tiny_bert_folder, tmp_path)
    found = []
    for backbone in (kept, tiny_bert):
        model = adapted(backbone, (1,))
        data = nouns_stream(backbone).experiences[0].train
        loss = model(data.inputs).features.square().sum()
        trained = model.adapters["main"].tensors.values()
        found.append(torch.autograd.grad(loss, list(trained)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "bottleneck", "ia3", "ssf", "layernorm", "bias"])
def test_every_kind_of_adapter_over_a_cached_prefix_gets_what_the_whole_model_says(
    kind, tiny_bert, tiny_bert_folder, tmp_path
):
    kept = keeping(tiny_bert_folder, tmp_path)
    found = []
    for backbone in (kept, tiny_bert):
        model = adapted(backbone, (1,), kind=kind)
        inputs = nouns_stream(backbone).experiences[0].train.trimmed().inputs
        found.append(model(inputs).features)
    assert list(tmp_path.rglob("*.safetensors"))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=2e-6)


def query_of(backbone, layer):
    return backbone.model.get_submodule(backbone.architecture.projections_of(layer)[0])


def test_projections_of_what_is_kept_are_kept_with_it(tiny_bert_folder, tmp_path):
    backbone = keeping(tiny_bert_folder, tmp_path)
    inputs = nouns_stream(backbone).experiences[0].train.inputs
    model = adapted(backbone, (1,))
    before = model(inputs).features
    query_of(backbone, 1).weight.data.fill_(float("nan"))
    assert torch.equal(model(inputs).features, before)


@pytest.mark.parametrize("rewritten", ["", ".attention", ".attention.self.value"])
def test_projections_of_what_an_overlay_rewrites_are_computed(
    rewritten, tiny_bert, tiny_bert_folder, tmp_path
):
    kept = keeping(tiny_bert_folder, tmp_path)
    found = []
    for backbone in (kept, tiny_bert):
        module = f"{backbone.architecture.stack}.1{rewritten}"
        overlay = Overlay(input_patches={module: [lambda x: x.roll(5, dims=-1)]})
        inputs = nouns_stream(backbone).experiences[0].train.trimmed().inputs
        found.append(backbone(inputs, overlay).features)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2e-6)
    plain = nouns_stream(tiny_bert).experiences[0].train.trimmed().inputs
    assert (found[0] - tiny_bert(plain).features).abs().max() > 1e-3


def test_projections_are_kept_where_there_is_room_for_them(tiny_bert_folder, tmp_path):
    roomy = keeping(tiny_bert_folder, tmp_path / "roomy")
    inputs = nouns_stream(roomy).experiences[0].train.inputs
    whole = adapted(roomy, (1,))(inputs).features
    assert [folder.name for folder in (tmp_path / "roomy").glob("*/*")] == ["attention_01"]
    taken = sum(path.stat().st_size for path in (tmp_path / "roomy").rglob("*.safetensors"))
    narrow = keeping(tiny_bert_folder, tmp_path / "narrow", max_bytes=taken)
    inputs = nouns_stream(narrow).experiences[0].train.inputs
    torch.testing.assert_close(adapted(narrow, (1,))(inputs).features, whole, rtol=1e-5, atol=2e-6)
    assert [folder.name for folder in (tmp_path / "narrow").glob("*/*")] == ["layer_01"]


@contextmanager
def rows_run_by(backbone):
    """How many rows have gone through the model inside."""
    rows = []
    count = backbone.model.register_forward_hook(lambda _, __, made: rows.append(len(made[0])))
    yield lambda: sum(rows)
    count.remove()


def test_a_sample_is_computed_once_by_all_who_need_it(tiny_bert_folder, tmp_path):
    first = keeping(tiny_bert_folder, tmp_path)
    stream = nouns_stream(first)
    data = stream.experiences[0].train
    parts = [each.part(part) for each in stream.experiences for part in PARTS]
    distinct = torch.cat([part.inputs[KEYS] for part in parts]).unique()
    with rows_run_by(first) as count:
        AdaptedModel(first, None, 0).frozen_features(data.inputs)
        assert len(data) <= count() < len(distinct)
        for part in parts:
            AdaptedModel(first, None, 0).frozen_features(part.inputs)
        assert count() == len(distinct)
        AdaptedModel(first, None, 1).frozen_features(data[torch.tensor([2, 1])].inputs)
        assert count() == len(distinct)
    later = keeping(tiny_bert_folder, tmp_path)
    again = nouns_stream(later).experiences[0].train
    with rows_run_by(later) as count:
        found = AdaptedModel(later, None, 0).frozen_features(again.inputs)
        assert count() == 0
    assert torch.equal(found, AdaptedModel(first, None, 0).frozen_features(data.inputs))


def test_samples_of_several_parts_are_read_together_in_the_order_asked_for(
    tiny_bert_folder, tmp_path
):
    backbone = keeping(tiny_bert_folder, tmp_path)
    parts = [each.train for each in nouns_stream(backbone).experiences]
    run = AdaptedModel(backbone, None, 0).frozen_features
    expected = [run(part.inputs) for part in parts]
    keys = torch.cat([part.inputs[KEYS] for part in parts])
    order = torch.arange(len(keys)).flip(0)
    found = backbone.features.features(keys[order], run)
    assert torch.equal(found, torch.cat(expected)[order])


def test_rows_count_as_asked_about_whether_they_are_kept_or_run(tiny_bert_folder, tmp_path):
    backbone = keeping(tiny_bert_folder, tmp_path)
    data = nouns_stream(backbone).experiences[0].train
    with backbone.counting_rows() as count:
        for _ in range(2):
            AdaptedModel(backbone, None, 0).frozen_features(data.inputs)
        adapted(backbone, (1,))(data[slice(0, 2)].inputs)
    assert count() == 2 * len(data) + 2


def test_features_do_not_depend_on_the_company_that_a_sample_is_in(tiny_bert_folder, tmp_path):
    found = []
    for number, order in enumerate([[0, 1, 2, 3], [3, 1]]):
        backbone = keeping(tiny_bert_folder, tmp_path / str(number))
        data = nouns_stream(backbone).experiences[0].train
        part = data[torch.tensor(order)]
        store = FeatureStore(tmp_path / f"own {number}", "name", ROOM)
        inputs = {name: value for name, value in part.inputs.items() if name != KEYS}
        keys = store.register(inputs)
        run = AdaptedModel(backbone, None, 0).frozen_features
        found.append(dict(zip(keys.tolist(), store.features(keys, run), strict=True)))
    first, second = found
    assert all(torch.equal(first[key], second[key]) for key in second)


def test_another_text_has_another_key_and_padding_changes_none(tiny_bert_folder, tmp_path):
    backbone = keeping(tiny_bert_folder, tmp_path)

    def keys(texts):
        labels = torch.zeros(len(texts), dtype=torch.int64)
        batch = backbone.encode(Samples(texts, labels, torch.arange(len(texts))))
        return backbone.features.register(batch.inputs).tolist()

    (alone,) = keys(["stop"])
    padded, other = keys(["stop", "turn on the light in the kitchen"])
    assert alone == padded
    assert other != padded


def test_what_does_not_fit_is_not_kept_and_the_reason_is_told(
    tiny_bert, tiny_bert_folder, tmp_path
):
    backbone = keeping(tiny_bert_folder, tmp_path, max_bytes=100)
    mine = nouns_stream(backbone).experiences[0].train.inputs
    whole = nouns_stream(tiny_bert).experiences[0].train.inputs
    found = AdaptedModel(backbone, None, 0).frozen_features(mine)
    torch.testing.assert_close(found, AdaptedModel(tiny_bert, None, 0).frozen_features(whole))
    assert "do not fit" in backbone.features.refusal
    assert not list(tmp_path.rglob("*.safetensors"))
    with rows_run_by(backbone) as count:
        AdaptedModel(backbone, None, 0).frozen_features(mine)
        assert count() == len(found), "it was tried again to keep them"


def test_room_is_made_by_what_was_not_used_for_longest(tiny_bert_folder, tmp_path):
    old = tmp_path / "another backbone" / "features"
    old.mkdir(parents=True)
    (old / "old.safetensors").write_bytes(bytes(50_000))
    backbone = keeping(tiny_bert_folder, tmp_path, max_bytes=50_500)
    data = nouns_stream(backbone).experiences[0].train
    AdaptedModel(backbone, None, 0).frozen_features(data.inputs)
    assert backbone.features.refusal is None
    assert not old.exists()


def test_inputs_that_nobody_registered_are_computed(tiny_bert_folder, tmp_path):
    backbone = keeping(tiny_bert_folder, tmp_path)
    known = nouns_stream(backbone).experiences[0].train
    strange = {**known.inputs, KEYS: known.inputs[KEYS] + 1}
    plain = {name: value for name, value in known.inputs.items() if name != KEYS}
    model = AdaptedModel(backbone, None, 0)
    torch.testing.assert_close(model.frozen_features(strange), model.frozen_features(plain))


def test_rows_of_which_some_are_unknown_lose_their_keys_when_they_are_joined(
    tiny_bert_folder, tmp_path
):
    backbone = keeping(tiny_bert_folder, tmp_path)
    known = nouns_stream(backbone).experiences[0].train
    plain = Batch(
        {name: value for name, value in known.inputs.items() if name != KEYS},
        known.labels,
        known.ids,
    )
    assert KEYS in Batch.cat([known, known]).inputs
    assert KEYS not in Batch.cat([known, plain]).inputs
    assert known.num_bytes() == plain.num_bytes()


@pytest.mark.parametrize("strategy", ["ncm", "linear_probe", "finetune", "er"])
def test_operations_are_counted_as_if_nothing_were_kept(
    strategy, tiny_bert, tiny_bert_folder, tmp_path
):
    from nouns import make_learner

    kept = keeping(tiny_bert_folder, tmp_path)
    metrics = [
        list(make_learner(strategy, nouns_stream(each), each, lora_layers=(-1,)).learn())[
            -1
        ].metrics
        for each in (kept, tiny_bert, kept)
    ]
    assert metrics[2]["cost/train_flops"] == metrics[0]["cost/train_flops"]
    for name in ("cost/train_flops", "cost/inference_flops", "cost/inference_passes"):
        assert metrics[0][name] == metrics[1][name] > 0


@pytest.mark.parametrize("damage", ["a bit", "torn", "empty", "no digest"])
def test_a_damaged_file_is_computed_again_and_replaced(tmp_path, damage):
    keys, lengths = torch.arange(3), torch.ones(3, dtype=torch.int64)
    tokens = torch.rand(3, 4)
    shelf = _Shelf(tmp_path)
    shelf.write(keys, lengths, tokens)
    (path,) = tmp_path.glob("*.safetensors")
    content = path.read_bytes()
    if damage == "no digest":
        save_file({"keys": keys, "lengths": lengths, "tokens": tokens}, path)
    else:
        flipped = content[:-1] + bytes([content[-1] ^ 1])
        path.write_bytes({"a bit": flipped, "torn": content[:-8], "empty": b""}[damage])
    again = _Shelf(tmp_path)
    assert again.locations.of(keys)[:, 0].tolist() == [-1, -1, -1]
    assert not path.exists()
    again.write(keys, lengths, tokens)
    assert torch.equal(_Shelf(tmp_path).files[0], tokens)
