"""What every strategy's bundle promises: it answers as its trial did, and learns on as its trial
would have."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from bundle_cases import SPLITS, mapping_of, new_learner, write_data
from lamina.bundles import Bundle, Predictor, open_bundle, write_bundle
from lamina.bundles.learning import continuation
from lamina.strategies import strategy_class
from lamina.strategies.ranpac import RanPAC
from lamina.strategies.safe import SAFE
from lamina.training.evaluate import known_task, logits_by_length
from lamina.training.learner import Learner
from nouns import OF_CLASSES
from pretended_device import tensors_of
from two_workers import digest

EVERY = OF_CLASSES
GOES_ON = [name for name in EVERY if strategy_class(name).data != "all"]
ROUTES = [name for name in EVERY if strategy_class(name).routes]


@dataclass
class Left:
    """A trial that has learned two tasks, and its bundle."""

    learner: Learner
    bundle: Bundle


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder of some of the small stream's tasks, `whole`, `begun` or `next`."""
    folder = tmp_path_factory.mktemp("nouns")
    tasks = {"whole": range(3), "begun": range(2), "next": range(2, 3)}
    made: dict[tuple[str, bool], Path] = {}

    def path(which: str, is_domain: bool) -> Path:
        key = (which, is_domain)
        if key not in made:
            made[key] = write_data(folder / f"{which}-{is_domain}", tasks[which], is_domain)
        return made[key]

    return path


@pytest.fixture(scope="module")
def left_by(data, tiny_bert, tiny_bert_folder, tmp_path_factory):
    """What each strategy leaves after two tasks, made once."""
    made: dict[str, Left] = {}

    def left(name: str) -> Left:
        if name not in made:
            begun = mapping_of(name, data("begun", _is_domain(name)), tiny_bert_folder)
            job, learner = new_learner(begun, tiny_bert)
            list(learner.learn())
            folder = tmp_path_factory.mktemp("bundle") / name
            write_bundle(job, learner, folder, name=name, trial=f"{name}-0")
            made[name] = Left(learner, open_bundle(folder))
        return made[name]

    return left


@pytest.mark.parametrize("name", EVERY)
def test_what_is_remembered_lies_in_memory_as_in_a_file(name, left_by):
    learner = left_by(name).learner
    remembered = list(tensors_of([learner.strategy.state, learner.model.state_dict()]))
    assert [each.stride() for each in remembered if not each.is_contiguous()] == []


@pytest.mark.parametrize("name", EVERY)
def test_a_bundle_answers_bit_equal_to_its_trial(name, left_by, tiny_bert):
    left = left_by(name)
    learner, predictor = left.learner, Predictor(left.bundle, tiny_bert)
    for each in learner.stream.experiences:
        known = known_task(learner.stream, each.task)
        asked = (learner.strategy, learner.model, each.test, known, 256)
        own = torch.cat([logits for _, logits in logits_by_length(*asked)])
        order = each.test.lengths().argsort(stable=True)
        found = predictor.logits(each.test, known)
        assert torch.equal(found.logits[order], own)
        if learner.strategy.routes and known is None:
            route = learner.strategy.route(learner.model, each.test.inputs)
            assert torch.equal(found.routes, route)


@pytest.mark.parametrize("name", EVERY)
def test_texts_get_the_labels_of_the_trial_s_last_evaluation(name, left_by, tiny_bert):
    left = left_by(name)
    predictor = Predictor(left.bundle, tiny_bert)
    said = _rows(left.bundle.folder / "predictions.csv")
    splits = Path(left.bundle.job.stream.path)
    texts = [row["text"] for split in SPLITS for row in _rows(splits / f"{split}.csv")]
    assert len(said) == len(_rows(splits / "test.csv"))
    for task in dict.fromkeys(row["task"] for row in said):
        own = [row for row in said if row["task"] == task]
        asked = [texts[int(row["row"])] for row in own]
        found = predictor.predict(asked, task if predictor.needs_task else None)
        assert [each.label for each in found] == [row["predicted"] for row in own]


@pytest.mark.parametrize("name", GOES_ON)
def test_learning_on_gives_what_the_task_would_have_from_the_start(
    name, left_by, data, tiny_bert, tiny_bert_folder
):
    is_domain = _is_domain(name)
    whole = new_learner(mapping_of(name, data("whole", is_domain), tiny_bert_folder), tiny_bert)[1]
    expected = list(whole.learn())[-1]
    changes = [f"stream.path={data('next', is_domain)}"]
    going_on = continuation(left_by(name).bundle, changes)
    assert going_on.missing == 0
    learner = going_on.learner(tiny_bert)
    (report,) = learner.learn()
    assert (report.task, report.task_name, report.done) == (2, "task 2", True)
    assert (report.validation, report.test) == (expected.validation, expected.test)
    if isinstance(learner.strategy, RanPAC | SAFE):
        torch.testing.assert_close(_sums(learner), _sums(whole))
    assert _learned(learner) == _learned(whole)


def _is_domain(name: str) -> bool:
    return strategy_class(name).scenarios[0] == "domain_incremental"


@pytest.mark.parametrize("name", ROUTES)
def test_a_strategy_that_routes_learns_on_where_the_old_rows_are_gone(
    name, left_by, data, tiny_bert
):
    bundle = left_by(name).bundle
    gone = replace(bundle.facts.data[0], digest="of other rows")
    moved = replace(bundle, facts=replace(bundle.facts, data=(gone,)))
    going_on = continuation(moved, [f"stream.path={data('next', _is_domain(name))}"])
    assert going_on.missing == 2
    (report,) = going_on.learner(tiny_bert).learn()
    assert report.test[:2] == [None, None]
    assert report.test[2] is not None


def _learned(learner: Learner) -> str:
    """A digest of all that it knows, but for what is told by the ids of rows: they are counted by
    file, and the new task is in a file of its own."""
    if learner.memory is not None:
        learner.memory.ids = torch.arange(len(learner.memory))
    if isinstance(learner.strategy, RanPAC | SAFE):
        # Which rows choose their ridge follows from the rows' ids.
        for name in ("sums", "solution", "fast", "slow"):
            learner.strategy.state.pop(name, None)
    return digest(learner)


def _sums(learner: Learner) -> dict[str, torch.Tensor]:
    """What RanPAC and SAFE have summed over all rows."""
    sums = learner.strategy.state.get("sums", {})
    return {
        name: each + sums[name.replace("_fit", "_held_out")]
        for name, each in sums.items()
        if name.endswith("_fit")
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
