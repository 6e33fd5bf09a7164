"""When rows enter the memory: as they pass, or when their task ends."""

import pytest
import torch

from lamina.config import ConfigError, first_stage, parse_job
from lamina.memory import policy_class
from lamina.training.learner import Learner
from lamina.training.settings import TrainingSettings
from nouns import as_scenario, make_learner, nouns_stream


@pytest.fixture(scope="module")
def stream(tiny_bert):
    """Three tasks of ten rows."""
    return nouns_stream(tiny_bert)


def watched(stream, backbone, name="er", entry=None, epochs=3):
    """A learner, and for each of its steps how many exemplars there were to draw from."""
    training = TrainingSettings(epochs=epochs, batch_size=4, learning_rate=1e-2)
    model = make_learner(name, stream, backbone)
    learner = Learner(
        strategy=type(model.strategy)(),
        adapter=model.model.kind,
        memory=policy_class("class_balanced")(100, entry=entry),
        training=training,
        seed=0,
        stream=stream,
        backbone=backbone,
    )
    sizes, step = [], learner.strategy.step

    def watch(model, batch, replay):
        sizes.append(len(replay))
        return step(model, batch, replay)

    learner.strategy.step = watch
    return learner, sizes


def test_rows_enter_when_their_task_ends(stream, tiny_bert):
    learner, sizes = watched(stream, tiny_bert, entry="task_end")
    reports = learner.learn()
    next(reports)
    assert sizes == [0] * 9
    assert len(learner.memory) == 10
    next(reports)
    assert sizes[9:] == [10] * 9


def test_rows_enter_once_after_the_first_step_on_them_with_several_epochs(stream, tiny_bert):
    learner, sizes = watched(stream, tiny_bert, entry="as_they_pass")
    reports = learner.learn()
    next(reports)
    assert sizes == [0, 4, 8, *[10] * 6]
    assert sorted(learner.memory.ids.tolist()) == sorted(stream.experiences[0].train.ids.tolist())
    next(reports)
    assert sizes[9:] == [10, 14, 18, *[20] * 6]
    assert learner.memory.num_offered == 20


@pytest.mark.parametrize(("name", "first"), [("er_ace", [0, 4, 8]), ("er", [0, 0, 0])])
def test_without_the_key_a_strategy_says_when_its_rows_enter(name, first, stream, tiny_bert):
    learner, sizes = watched(stream, tiny_bert, name=name, epochs=1)
    next(learner.learn())
    assert sizes == first


@pytest.mark.parametrize("entry", [None, "as_they_pass"])
def test_a_task_free_stream_shows_rows_as_they_pass(entry, stream, tiny_bert):
    free = as_scenario(stream, "task_free")
    learner, sizes = watched(free, tiny_bert, entry=entry, epochs=1)
    next(learner.learn())
    assert sizes == [0, 4, 8]


def test_several_phases_offer_a_row_once(stream, tiny_bert):
    learner, _ = watched(stream, tiny_bert, name="adaptive_merging", entry="as_they_pass")
    list(learner.learn())
    assert learner.memory.num_offered == 30
    assert len(set(learner.memory.ids.tolist())) == 30


def test_noted_logits_are_those_of_the_step_at_which_a_row_entered(stream, tiny_bert):
    learner, _ = watched(stream, tiny_bert, name="der_pp", entry="as_they_pass", epochs=1)
    noted, annotate = [], learner.strategy.annotate

    def watch(model, batch):
        noted.append(annotate(model, batch)["logits"].detach().clone())
        return {"logits": noted[-1]}

    learner.strategy.annotate = watch
    next(learner.learn())
    assert [len(each) for each in noted] == [4, 4, 2]
    torch.testing.assert_close(learner.memory.extras["logits"], torch.cat(noted))


def memory(entry):
    """The section of a job."""
    return {"policy": "reservoir", "size": 10, "entry": entry}


def a_job(**more):
    """A job's mapping."""
    return {
        "name": "entry",
        "stream": {"name": "assistant"},
        "scenario": {"kind": "class_incremental"},
        "backbone": {"name": "minilm"},
        "adapter": {"kind": "lora"},
        "strategy": {"name": "er"},
        "memory": memory(None),
        "training": {"epochs": 1},
        **more,
    }


def test_trials_share_no_first_task_where_rows_enter_as_they_pass():
    assert first_stage(parse_job(a_job())) is not None
    assert first_stage(parse_job(a_job(memory=memory("as_they_pass")))) is None
    assert first_stage(parse_job(a_job(strategy={"name": "er_ace"}))) is None
    held = a_job(strategy={"name": "er_ace"}, memory=memory("task_end"))
    assert first_stage(parse_job(held)) is not None


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"memory": memory("as_they_pas")}, "memory.entry: 'as_they_pas'"),
        (
            {
                "memory": memory("task_end"),
                "scenario": {"kind": "class_incremental", "online": True},
            },
            "memory.entry: 'task_end' does not go with an online stream",
        ),
        (
            {"memory": memory("as_they_pass"), "federation": {"clients": 3}},
            "memory.entry: 'as_they_pass' does not go with a federation",
        ),
    ],
)
def test_an_entry_that_cannot_be_is_refused_in_one_line(more, said):
    with pytest.raises(ConfigError) as error:
        parse_job(a_job(**more))
    assert said in str(error.value)


def test_a_policy_made_in_code_knows_the_words_too():
    with pytest.raises(ValueError, match=r"memory\.entry: 'now' is unknown"):
        policy_class("ring")(5, entry="now")
