"""Learners whose steps are taken together get what they get alone."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from lamina.adapters import kind_class
from lamina.strategies import strategy_names
from lamina.training.cohort import Cohort, Progress, shared, together
from lamina.training.settings import TrainingSettings
from nouns import make_learner

TRAINING = TrainingSettings(epochs=2, batch_size=4, learning_rate=1e-2)


def learn_together(learners, most_rows=64):
    """The reports of every learner of a cohort."""
    cohort = Cohort(most_rows)
    reports = {name: [] for name in learners}
    for name, learner in learners.items():
        cohort.add(name, learner)
    while cohort.can_advance:
        for progress in cohort.advance():
            if progress.error:
                raise progress.error
            if progress.report is None:
                cohort.remove(progress.name)
            else:
                reports[progress.name].append(progress.report)
                cohort.go_on(progress.name)
    return reports


def learned(learner):
    return {
        f"{name}.{key}": tensor.detach()
        for name, adapter in learner.model.adapters.items()
        for key, tensor in adapter.tensors.items()
    }


def check_same(make, backbone, names):
    """Learners made by `make(name, backbone)`, alone and together: the same R to the last bit, and
    tensors to 1e-5."""
    alone = {name: make(name, backbone) for name in names}
    reports = {name: list(learner.learn()) for name, learner in alone.items()}
    members = {name: make(name, shared(backbone)) for name in names}
    found = learn_together(members)
    for name in names:
        assert [each.test for each in found[name]] == [each.test for each in reports[name]]
        own, packed = learned(alone[name]), learned(members[name])
        assert own.keys() == packed.keys()
        torch.testing.assert_close(packed, own, rtol=0, atol=1e-5)
    return members


@pytest.mark.parametrize(
    "kind", ["lora", "bottleneck", "prefix", "prompt", "ia3", "ssf", "layernorm", "bias"]
)
def test_trials_of_every_kind_of_adapter_get_the_same_together_and_alone(nouns, tiny_bert, kind):
    def make(name, backbone):
        training = replace(TRAINING, learning_rate=float(name), max_grad_norm=1.0)
        return make_learner("finetune", nouns, backbone, adapter=kind, training=training)

    check_same(make, tiny_bert, ["0.0005", "0.001", "0.002"])


def test_trials_on_pictures_get_the_same_together_and_alone(shapes, tiny_vit):
    def make(name, backbone):
        training = replace(TRAINING, learning_rate=float(name))
        return make_learner("finetune", shapes, backbone, adapter="vpt_deep", training=training)

    check_same(make, tiny_vit, ["0.001", "0.003"])


FAMILIES = {
    "regularisation and replay": ["finetune", "er", "ewc", "lwf", "gem", "agem", "der_pp", "si"],
    "prompts": ["l2p", "dualprompt", "coda_prompt", "vq_prompt", "ovor", "convprompt"],
    "low-rank updates": ["olora", "inflora", "sd_lora", "tree_lora", "i_lora", "cl_lora"],
    "adapters": ["ease", "sema", "lae", "mos", "acl", "safe"],
    "prototypes": ["ncm", "ranpac", "aper", "slca", "slda", "simplecil"],
}


@pytest.mark.parametrize("family", FAMILIES)
def test_strategies_that_differ_in_everything_get_the_same_together_and_alone(
    nouns, tiny_bert, family
):
    def make(name, backbone):
        training = replace(TRAINING, learning_rate=1e-3)
        return make_learner(name, nouns, backbone, training=training, seed=len(name))

    assert set(FAMILIES[family]) <= set(strategy_names())
    check_same(make, tiny_bert, FAMILIES[family])


def test_low_rank_updates_of_different_ranks_and_scales_are_packed(nouns, tiny_bert):
    def make(name, backbone):
        learner = make_learner("finetune", nouns, backbone, training=TRAINING)
        rank, alpha = map(int, name.split("/"))
        learner.model.kind = kind_class("lora")(rank=rank, alpha=alpha)
        learner.model.add()
        return learner

    members = check_same(make, tiny_bert, ["2/4", "4/16", "8/8"])
    ranks = {
        name: member.model.adapters["main"]
        .tensors["encoder.layer.0.attention.self.query.lora_A.weight"]
        .shape[0]
        for name, member in members.items()
    }
    assert ranks == {"2/4": 2, "4/16": 4, "8/8": 8}


def test_masks_of_dropout_are_those_of_the_trial_alone(nouns, tiny_bert):
    def make(name, backbone):
        learner = make_learner("finetune", nouns, backbone, training=TRAINING, seed=int(name))
        learner.model.kind = kind_class("lora")(dropout=0.3)
        learner.model.add()
        return learner

    check_same(make, tiny_bert, ["0", "1"])


def test_steps_of_trials_are_one_forward(nouns, tiny_bert):
    def rows_and_forwards(learners, most_rows):
        count = []
        handle = tiny_bert.model.register_forward_hook(lambda *_: count.append(1))
        try:
            learn_together(learners, most_rows)
        finally:
            handle.remove()
        return len(count)

    def members():
        return {
            str(rate): make_learner(
                "finetune",
                nouns,
                shared(tiny_bert),
                training=replace(TRAINING, learning_rate=rate, evaluation_batch_size=4),
            )
            for rate in (1e-3, 2e-3, 3e-3, 4e-3)
        }

    one_by_one, packed = (rows_and_forwards(members(), rows) for rows in (1, 64))
    assert packed < 0.4 * one_by_one


def test_a_trial_that_fails_takes_nobody_with_it(nouns, tiny_bert):
    members = {
        name: make_learner("finetune", nouns, shared(tiny_bert), training=TRAINING)
        for name in ("sound", "broken", "sound too")
    }
    members["broken"].strategy.step = lambda *_: 1 / 0
    cohort = Cohort(64)
    for name, learner in members.items():
        cohort.add(name, learner)
    failed, finished = [], []
    while cohort.can_advance:
        for progress in cohort.advance():
            if progress.report is not None:
                cohort.go_on(progress.name)
            else:
                (failed if progress.error else finished).append(progress.name)
                cohort.remove(progress.name)
    assert failed == ["broken"]
    assert finished == ["sound", "sound too"]
    assert len(cohort) == 0


def test_a_learner_stands_at_its_boundary_until_it_may_go_on(nouns, tiny_bert):
    cohort = Cohort(64)
    cohort.add("a", make_learner("finetune", nouns, shared(tiny_bert), training=TRAINING))
    (first,) = cohort.advance()
    assert isinstance(first, Progress)
    assert first.report.task == 0
    assert not cohort.can_advance
    assert cohort.advance() == []
    cohort.go_on("a")
    (second,) = cohort.advance()
    assert second.report.task == 1


def test_gradients_are_recorded_as_before_when_a_cohort_has_run(nouns, tiny_bert):
    assert torch.is_grad_enabled()
    learn_together({"a": make_learner("ncm", nouns, shared(tiny_bert))})
    assert torch.is_grad_enabled()


def test_a_trial_is_charged_its_own_time(nouns, tiny_bert, monkeypatch):
    """By a clock that says how often it was looked at: four trials that do the same are charged
    the same, and together no more than has passed."""
    ticks = iter(range(10**9))
    monkeypatch.setattr("lamina.training.cohort.time.perf_counter", lambda: float(next(ticks)))
    members = {
        str(seed): make_learner("finetune", nouns, shared(tiny_bert), training=TRAINING, seed=seed)
        for seed in range(4)
    }
    reports = learn_together(members)
    seconds = [
        each[-1].metrics["cost/train_seconds"] + each[-1].metrics["cost/evaluation_seconds"]
        for each in reports.values()
    ]
    assert max(seconds) < 1.1 * min(seconds)
    assert 0 < sum(seconds) <= next(ticks)


def test_calls_that_meet_are_answered_in_order_so_many_at_a_time(nouns, tiny_bert):
    backbone, under_way, most = shared(tiny_bert), set(), []
    rows = nouns.experiences[0].train

    def call(at):
        under_way.add(at)
        most.append(len(under_way))
        features = backbone(rows[slice(at, at + 1)].inputs).features
        under_way.remove(at)
        return features

    with torch.no_grad():
        found = together([partial(call, at) for at in range(5)], most=2, most_rows=64)
        expected = [tiny_bert(rows[slice(at, at + 1)].inputs).features for at in range(5)]
    torch.testing.assert_close(found, expected)
    assert max(most) == 2
    assert not under_way


def test_a_call_that_fails_ends_all_with_its_error(nouns, tiny_bert):
    backbone, ended = shared(tiny_bert), []

    def waits():
        try:
            backbone(nouns.experiences[0].train.inputs)
        finally:
            ended.append(True)

    with pytest.raises(ZeroDivisionError):
        together([waits, lambda: 1 / 0], most=2, most_rows=64)
    assert ended == [True]
    assert torch.is_grad_enabled()
