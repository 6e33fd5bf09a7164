"""What is not finite has failed: nothing of it is reported, ranked or saved."""

import json

import pytest
import torch
from click.testing import CliRunner

import small_job
from lamina.adapters.model import MAIN
from lamina.cli import main
from lamina.core import Summary
from lamina.evaluation.measures.accuracy import Accuracy
from lamina.training.cohort import Cohort, shared
from lamina.training.evaluate import answered_rightly, measured
from lamina.training.finite import NotFiniteError, check_tensors
from lamina.training.settings import TrainingSettings
from nouns import make_learner

BAD = (float("nan"), float("inf"), float("-inf"))
HUGE = TrainingSettings(epochs=2, batch_size=4, optimizer="sgd", learning_rate=1e38)


def fails(learner, message):
    """That a learner ends with this message, and what it reported before."""
    reports = []
    with pytest.raises(NotFiniteError, match=message):
        reports.extend(_each_kept(learner, reports))
    return reports


def _each_kept(learner, reports):
    """Nothing more than `reports`, to which every report is added as it comes."""
    for report in learner.learn():
        reports.append(report)
    return []


@pytest.mark.parametrize("name", ["linear_probe", "finetune", "er", "l2p", "ewc"])
def test_a_loss_that_is_not_finite_names_task_step_and_learning_rate(name, nouns, tiny_bert):
    learner = make_learner(name, nouns, tiny_bert, training=HUGE)
    said = r"not finite: task 1 \(task 0\): the loss of step [23] is .*learning_rate 1e\+38"
    assert fails(learner, said) == []


def test_the_step_is_counted_over_all_tasks(nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert)
    original, count = learner.strategy.step, 0

    def step(model, batch, replay):
        nonlocal count
        count += 1
        output = original(model, batch, replay)
        if count == 8:
            return type(output)(output.loss * float("nan"))
        return output

    learner.strategy.step = step
    assert len(fails(learner, r"task 2 \(task 1\): the loss of step 8 is nan")) == 1


@pytest.mark.parametrize("value", BAD)
def test_a_gradient_that_is_not_finite_ends_a_trial_though_every_loss_was(value, nouns, tiny_bert):
    """The last step of the last epoch: no later loss shows it."""
    learner = make_learner("finetune", nouns, tiny_bert)
    count = 0

    def adjust(model, gradients, references):
        nonlocal count
        count += 1
        return {
            name: torch.full_like(each, value) if count == 6 and "head" in name else each
            for name, each in gradients.items()
        }

    learner.strategy.adjust = adjust
    assert fails(learner, "after step 6 the tensor head.weight is not finite") == []


@pytest.mark.parametrize("value", BAD)
def test_what_a_strategy_remembers_has_to_be_finite(value, nouns, tiny_bert):
    learner = make_learner("ncm", nouns, tiny_bert)

    def end_task(model, task, review):
        learner.strategy.state = {"deep": [{"sum": torch.tensor([1.0, value])}]}

    learner.strategy.end_task = end_task
    assert fails(learner, r"what the strategy remembers as deep\.0\.sum is not finite") == []


@pytest.mark.parametrize("value", BAD)
def test_a_summary_that_is_not_finite_ends_the_task(value, nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert)
    learner.strategy.review = lambda model, batch: Summary({"sum": torch.tensor([value])})
    learner.strategy.review.__name__ = "review"
    assert fails(learner, "the summary's sum is not finite") == []


def test_an_adapter_that_is_made_when_a_task_ends_has_to_be_finite(nouns, tiny_bert):
    learner = make_learner("finetune", nouns, tiny_bert)

    def end_task(model, task, review):
        if task.index == 1:
            tensors = {k: each * float("nan") for k, each in model.adapters[MAIN].tensors.items()}
            model.keep("merged", model.kind, tensors)

    learner.strategy.end_task = end_task
    reports = fails(learner, r"task 2 \(task 1\): the tensor merged\.")
    assert [report.task for report in reports] == [0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_answer(value, nouns, tiny_bert):
    learner = make_learner("ncm", nouns, tiny_bert)
    list(learner.learn())
    original, data = learner.strategy.predict, nouns.experiences[0].test
    asked = (learner.strategy, learner.model, data, None, 2)
    before = answered_rightly(*asked)

    def predict(model, inputs, task):
        logits = original(model, inputs, task)
        logits[inputs["attention_mask"].sum(dim=1) == longest, 3] = value
        return logits

    longest = int(data.lengths().max())
    is_longest = data.lengths() == longest
    learner.strategy.predict = predict
    assert torch.equal(answered_rightly(*asked), before & ~is_longest)
    with pytest.raises(NotFiniteError, match=f"{int(is_longest.sum())} of {len(data)} rows"):
        measured(Accuracy(), *asked)


def test_classes_that_cannot_be_meant_may_be_minus_infinity(nouns, tiny_bert):
    learner = make_learner("ncm", nouns, tiny_bert)
    list(learner.learn())
    data, own = nouns.experiences[0].test, nouns.experiences[0].test.labels

    def predict(model, inputs, task):
        logits = torch.full((len(inputs["input_ids"]), 6), -torch.inf)
        logits[:, 1] = 0.0
        return logits

    learner.strategy.predict = predict
    asked = (learner.strategy, learner.model, data, None, 8)
    assert measured(Accuracy(), *asked) == (own == 1).float().mean().item()
    learner.strategy.predict = lambda model, inputs, task: predict(model, inputs, task) - torch.inf
    with pytest.raises(NotFiniteError, match="logits"):
        measured(Accuracy(), *asked)


def test_only_the_trial_that_fails_leaves_a_cohort(nouns, tiny_bert):
    good = TrainingSettings(epochs=2, batch_size=4, optimizer="sgd", learning_rate=1e-2)

    def make(name, backbone):
        training = HUGE if name == "bad" else good
        seed = {"a": 0, "bad": 1, "b": 2}[name]
        return make_learner("finetune", nouns, backbone, training=training, seed=seed)

    alone = {name: list(make(name, tiny_bert).learn())[-1].test for name in ("a", "b")}
    cohort, found, errors = Cohort(64), {}, {}
    for name in ("a", "bad", "b"):
        cohort.add(name, make(name, shared(tiny_bert)))
    while cohort.can_advance:
        for progress in cohort.advance():
            if progress.report is None:
                errors[progress.name] = progress.error
                cohort.remove(progress.name)
            else:
                found[progress.name] = progress.report.test
                cohort.go_on(progress.name)
    assert isinstance(errors.pop("bad"), NotFiniteError)
    assert errors == {"a": None, "b": None}
    assert found == alone


def test_integers_and_empty_states_are_finite():
    check_tensors({"count": torch.tensor([1]), "nothing": None, "name": "x"}, "the tensor")
    check_tensors({}, "the tensor")


def test_a_lone_run_says_in_one_line_that_it_failed(tmp_path):
    job = small_job.write(tmp_path, optimizer="sgd", learning_rate=1e38)
    done = CliRunner().invoke(main, ["run", str(job)])
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("not finite: task 1")
    (folder,) = (tmp_path / "out" / "run").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert (result["status"], result["tasks_done"]) == ("failed", 0)
    assert line in result["error"]
    assert not (folder / "bundle").exists()
    shown = CliRunner().invoke(main, ["report", str(tmp_path / "out")])
    assert "failed: not finite: task 1" in shown.output
