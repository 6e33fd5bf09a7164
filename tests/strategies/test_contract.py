"""What every strategy promises."""

from dataclasses import dataclass
from functools import wraps
from pathlib import Path

import pytest
import torch

from lamina import strategies
from lamina.strategies import strategy_class
from lamina.training.checkpoint import pack, unpack
from lamina.training.learner import Learner
from lamina.training.report import TaskReport
from lamina.training.settings import TrainingSettings
from nouns import OF_CLASSES, as_scenario, make_learner
from two_workers import Case, digest, train_by_one, train_by_two, with_products

EVERY = OF_CLASSES
ONCE = TrainingSettings(epochs=1, batch_size=4, learning_rate=1e-2)


@dataclass
class Run:
    """A strategy that has gone through the small stream."""

    learner: Learner
    reports: list[TaskReport]
    after_first_task: bytes
    """Its checkpoint."""
    digest_after_first_task: str
    trained: list[set[str]]
    """What is trained when each task has begun."""
    row_names: set[str]
    """The names of values of single rows in what `preview` and `review` returned."""


@pytest.fixture(scope="module")
def run_of(nouns, tiny_bert):
    """Each strategy's run, made once."""
    runs: dict[str, Run] = {}

    def run(name: str) -> Run:
        if name not in runs:
            learner = make_learner(name, _suited(name, nouns), tiny_bert)
            trained = _noting_what_is_trained(learner)
            row_names = _noting_row_names(learner)
            learning = learner.learn()
            reports = [next(learning)]
            saved, known = pack(learner.state_dict()), digest(learner)
            reports.extend(learning)
            runs[name] = Run(learner, reports, saved, known, trained, row_names)
        return runs[name]

    return run


def test_there_are_fifty_at_least():
    assert len(EVERY) >= 50


@pytest.mark.parametrize("name", EVERY)
def test_its_file_is_short_and_opens_with_its_card(name):
    path = Path(strategies.__file__).parent / f"{name}.py"
    lines = path.read_text().splitlines()
    assert len(lines) <= 200
    assert lines[0].startswith('"""')
    assert "(" in lines[0]
    assert ":" in lines[0]
    cls = strategy_class(name)
    assert cls.paper
    assert 1990 <= cls.year <= 2026
    assert cls.family
    assert cls.scenarios
    assert cls.modalities


@pytest.mark.parametrize("name", EVERY)
def test_it_takes_answers_in_tokens_or_says_why_it_cannot(name):
    cls = strategy_class(name)
    assert bool(cls.classes_only) == ("tokens" not in cls.answers)


@pytest.mark.parametrize("name", EVERY)
def test_it_learns_the_first_task_above_chance(name, minilm_nouns, minilm):
    stream = _suited(name, minilm_nouns)
    training = TrainingSettings(epochs=6, batch_size=4, learning_rate=5e-3)
    learner = make_learner(name, stream, minilm, training=training)
    first = next(iter(learner.learn()))
    seen = [value for value in first.test if value is not None]
    chance = 0.5 if len(seen) == 1 else 1 / 6
    assert seen[0] > chance + 0.2


@pytest.mark.parametrize("name", EVERY)
def test_the_backbone_is_bit_identical_after_it(name, run_of, tiny_bert, tiny_bert_folder):
    run_of(name)
    from safetensors.torch import load_file

    before = load_file(tiny_bert_folder / "model.safetensors")
    after = tiny_bert.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(parameter.requires_grad for parameter in tiny_bert.model.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_learner(name, run_of, nouns, tiny_bert):
    run = run_of(name)
    again = make_learner(name, _suited(name, nouns), tiny_bert)
    next(again.learn())
    assert digest(again) == run.digest_after_first_task


@pytest.mark.parametrize("name", EVERY)
def test_a_checkpoint_restored_in_mid_stream_goes_on_bit_equal(name, run_of, nouns, tiny_bert):
    run = run_of(name)
    resumed = make_learner(name, _suited(name, nouns), tiny_bert)
    resumed.load_state_dict(unpack(run.after_first_task))
    reports = list(resumed.learn())
    assert [each.test for each in reports] == [each.test for each in run.reports[1:]]
    assert digest(resumed) == digest(run.learner)


@pytest.mark.parametrize("name", EVERY)
def test_a_prediction_does_not_depend_on_the_rest_of_its_batch(name, run_of, nouns):
    learner = run_of(name).learner
    strategy, model = learner.strategy, learner.model
    experience = nouns.experiences[1]
    data = experience.test
    told = experience.task if learner.stream.scenario == "task_incremental" else None
    with torch.no_grad():
        together = strategy.predict(model, data.inputs, told)
        backwards = strategy.predict(model, data[torch.arange(len(data)).flip(0)].inputs, told)
        alone = torch.cat([strategy.predict(model, one.inputs, told) for one in data.chunks(1)])
    assert together.shape == (len(data), model.num_classes())
    torch.testing.assert_close(together, backwards.flip(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_what_it_sums_over_the_data_does_not_depend_on_the_size_of_batches(name, run_of, nouns):
    learner = run_of(name).learner
    data = learner.stream.experiences[2].train
    with torch.no_grad():
        for look in (learner.strategy.preview, learner.strategy.review):
            whole = look(learner.model, data)
            if whole is None:
                continue
            parts = [look(learner.model, part) for part in data.chunks(3)]
            added = sum(parts[1:], start=parts[0])
            for key, value in whole.sums.items():
                torch.testing.assert_close(added[key], value, atol=1e-3, rtol=1e-3)
            for key, value in whole.rows.items():
                torch.testing.assert_close(added[key], value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_its_route_is_a_task_for_each_row_if_it_routes(name, run_of, nouns):
    learner = run_of(name).learner
    if not learner.strategy.routes:
        with pytest.raises(NotImplementedError):
            learner.strategy.route(learner.model, nouns.experiences[0].test.inputs)
        return
    data = nouns.experiences[1].test
    with torch.no_grad():
        routes = learner.strategy.route(learner.model, data.inputs)
    assert routes.dtype == torch.int64
    assert routes.shape == (len(data),)
    assert set(routes.tolist()) <= {0, 1, 2}


@pytest.mark.parametrize("name", EVERY)
def test_it_says_whether_later_tasks_train_new_tensors(name, run_of):
    first, *later = run_of(name).trained
    grew = any(each - first for each in later)
    # SEMA expands where the data surprise it, and these do not.
    assert grew == strategy_class(name).grows or name == "sema"


@pytest.mark.parametrize("name", EVERY)
def test_it_declares_whether_its_summaries_hold_values_of_single_rows(name, run_of):
    assert bool(run_of(name).row_names) == strategy_class(name).summary_rows


@pytest.mark.parametrize("name", EVERY)
def test_its_state_is_tensors_and_plain_values(name, run_of):
    unpack(pack(run_of(name).learner.strategy.state))


@pytest.mark.parametrize(
    ("name", "scenario"),
    [
        (name, scenario)
        for name in EVERY
        for scenario in strategy_class(name).scenarios
        if scenario not in ("class_incremental", "joint")
    ],
)
def test_it_goes_through_every_scenario_that_it_declares(name, scenario, nouns, tiny_bert):
    stream = as_scenario(nouns, scenario)
    reports = list(make_learner(name, stream, tiny_bert, training=ONCE).learn())
    assert None not in reports[-1].test
    assert reports[-1].done


@pytest.mark.parametrize(
    "name", [name for name in EVERY if "image" in strategy_class(name).modalities]
)
def test_it_goes_through_pictures(name, shapes, tiny_vit):
    stream = _suited(name, shapes)
    reports = list(make_learner(name, stream, tiny_vit, training=ONCE).learn())
    assert None not in reports[-1].test


NOT_AS_ONE = {
    "c_lora": "with SGD its penalty diverges on this stream",
    "gem": "a past task's gradient is a mean over each worker's own exemplars of it",
    "safe": "its transfer correlates the features of each worker's own rows",
}
"""Strategies that two workers do not train as one does, and why."""


@pytest.fixture(scope="module")
def by_two(request, tiny_bert_folder, tmp_path_factory):
    """What two data-parallel workers have after the small stream, by strategy that is asked for."""
    asked = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path
        and getattr(item, "originalname", "")
        == "test_two_data_parallel_workers_learn_what_one_does"
    ]
    cases = [Case(name, tiny_bert_folder) for name in asked]
    return train_by_two(cases, tmp_path_factory.mktemp("two_workers"))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", EVERY)
def test_two_data_parallel_workers_learn_what_one_does(name, by_two, tiny_bert_folder):
    """They stay equal to the last bit; and but for NOT_AS_ONE they equal one worker that takes the
    whole batches, up to the rounding of sums."""
    case = Case(name, tiny_bert_folder)
    first, second = by_two[case]
    assert (first["learned"], first["test"]) == (second["learned"], second["test"])
    if name in NOT_AS_ONE:
        return
    alone, together = (with_products(each["tensors"]) for each in (train_by_one(case), first))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def _suited(name, stream):
    """The stream as the first scenario that the strategy takes."""
    return as_scenario(stream, strategy_class(name).scenarios[0])


def _noting_what_is_trained(learner):
    """A list that gets the names of what is trained whenever a task has begun."""
    found = []
    begin_task = learner.strategy.begin_task

    def noted(model, task, preview):
        begin_task(model, task, preview)
        found.append(set(model.parameters()))

    learner.strategy.begin_task = noted
    return found


def _noting_row_names(learner):
    """A set that gets the names in `Summary.rows` of whatever `preview` and `review` return."""
    found = set()

    def noting(look):
        @wraps(look)
        def noted(model, batch):
            summary = look(model, batch)
            if summary is not None:
                found.update(summary.rows)
            return summary

        return noted

    learner.strategy.preview = noting(learner.strategy.preview)
    learner.strategy.review = noting(learner.strategy.review)
    return found
