"""Bundles on one backbone answer as each of them does alone, whoever asks at the same time."""

import pytest

from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.bundles import Predictor, open_bundle
from lamina.orchestration.serving.question import Question
from lamina.orchestration.serving.resident_bundles import ResidentBundles
from lamina.orchestration.serving.settings import ServingSettings
from lamina.registry import InputError
from served_bundles import TEXTS, write_served

STRATEGIES = ["er", "ranpac", "s_prompts", "l2p", "dualprompt", "ncm"]


@pytest.fixture(scope="module")
def bundles(tiny_bert, tiny_bert_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    told = {"scenario": {"kind": "task_incremental"}, "name": "told"}
    cases = [*((name, {}) for name in STRATEGIES), ("er", told)]
    folders = [write_served(n, folder, tiny_bert, tiny_bert_folder, **more) for n, more in cases]
    return {each.name: open_bundle(each) for each in folders}


@pytest.fixture(scope="module")
def resident(bundles):
    return ResidentBundles(bundles, ServingSettings(batch_rows=5), "cpu")


def alone(bundle, backbone, texts, task=None, top_k=1):
    return Predictor(bundle, backbone).predict(texts, task, top_k)


def assert_same(found, expected):
    assert [each.label for each in found] == [each.label for each in expected]
    assert [each.task for each in found] == [each.task for each in expected]
    for one, other in zip(found, expected, strict=True):
        assert [label for label, _ in one.top] == [label for label, _ in other.top]
        assert [s for _, s in one.top] == pytest.approx([s for _, s in other.top], abs=1e-5)


def test_questions_to_many_bundles_are_answered_as_by_each_alone(bundles, resident, tiny_bert):
    questions = [Question(name, TEXTS, None, 2) for name in STRATEGIES]
    questions += [Question("told", TEXTS[:3], "task 1", 1), Question("er", TEXTS[4:5], None, 4)]
    questions += [Question("told", TEXTS[2:], "task 0", 2)]
    for question, found in zip(questions, resident.answer(questions), strict=True):
        known = (list(question.values), question.task, question.top_k)
        assert_same(found, alone(bundles[question.bundle], tiny_bert, *known))


def test_a_backbone_is_loaded_once_for_all_bundles_even_where_they_pool_otherwise(
    bundles, tiny_bert, tiny_bert_folder, tmp_path
):
    first = {"name": str(tiny_bert_folder), "pooling": "first", "max_length": 8}
    own = load_backbone(BackboneSettings(**first))
    more = {"backbone": first, "name": "other"}
    other = open_bundle(write_served("ncm", tmp_path, own, tiny_bert_folder, **more))
    both = ResidentBundles({**bundles, "other": other}, ServingSettings(), "cpu")
    assert both.num_loaded == 1
    found = both.answer([Question("ncm", TEXTS, None, 1), Question("other", TEXTS, None, 1)])
    assert_same(found[0], alone(bundles["ncm"], tiny_bert, TEXTS))
    assert_same(found[1], alone(other, own, TEXTS))


def test_rows_of_several_bundles_are_one_forward(resident, monkeypatch):
    backbone = next(iter(resident._backbones.values()))
    sizes = []
    run_together = type(backbone).run_together
    monkeypatch.setattr(
        type(backbone),
        "run_together",
        lambda self, calls: sizes.append(len(calls)) or run_together(self, calls),
    )
    resident.answer([Question(name, TEXTS[:2], None, 1) for name in ("er", "ncm", "ranpac")])
    assert max(sizes) > 1


def test_an_error_is_only_that_of_the_bundle_whose_it_is(bundles, tiny_bert, monkeypatch):
    resident = ResidentBundles(bundles, ServingSettings(), "cpu")

    def fails(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(resident._predictors["ncm"].strategy, "predict", fails)
    asked = [Question(name, TEXTS, None, 1) for name in ("ncm", "er", "ncm")]
    first, second, third = resident.answer(asked)
    assert str(first) == str(third) == "ZeroDivisionError: a bug"
    assert_same(second, alone(bundles["er"], tiny_bert, TEXTS))


def test_a_bundle_on_another_backbone_than_it_was_trained_on_is_refused(bundles, monkeypatch):
    monkeypatch.setattr("lamina.bundles.bundle.backbone_digest", lambda name: "another digest")
    with pytest.raises(InputError, match="is another model here"):
        ResidentBundles(bundles, ServingSettings(), "cpu")
