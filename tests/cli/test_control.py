"""`lamina trials | stop | pause | resume | fork` where no sweep runs."""

import pytest

from lamina.cli.control import _trial
from lamina.orchestration.store.shared_store import SharedStore
from lamina.registry import InputError

JOB = {"seed": 0, "strategy": {"name": "er"}}
ROWS = [
    {"trial": "er-0a", "name": "er-lora-lr0.1"},
    {"trial": "er-0b", "name": "er-lora-lr0.2"},
    {"trial": "ewc-0c", "name": "ewc-lora"},
]


@pytest.fixture
def left(tmp_path):
    """What a sweep that was killed has left."""
    store = SharedStore(tmp_path / "store", "one")
    store.submit("er-0a", "er-lora", JOB)
    store.claim("h0", "x")
    store.close()
    return tmp_path


def test_the_trials_of_a_run_that_was_killed_are_shown(lamina, left):
    result = lamina("trials", left)
    assert result.exit_code == 0
    assert "does not run: 1 trials" in result.output.replace("\n", " ")
    assert "er-0a er-lora interrupted 0 - -" in " ".join(result.output.split())


@pytest.mark.parametrize("command", ["stop", "pause", "resume", "fork"])
def test_what_does_not_run_cannot_be_changed(lamina, left, command):
    result = lamina(command, left, "er-lora")
    assert result.exit_code == 2
    assert "does not run (allowed: the output_dir of a sweep that does" in result.output


def test_a_folder_without_a_sweep_is_said_to_have_none(lamina, tmp_path):
    for words in (("trials", tmp_path / "x"), ("stop", tmp_path / "x", "er")):
        result = lamina(*words)
        assert result.exit_code == 2
        assert "is not there" in result.output


@pytest.mark.parametrize("word", ["ewc-0c", "ewc-lora", "ewc"])
def test_a_trial_is_meant_by_its_id_its_name_or_the_beginning_of_either(word):
    assert _trial(ROWS, word) == ROWS[2]


@pytest.mark.parametrize(
    ("word", "said"),
    [("er-lora", "'er-lora' is several"), ("ewc-lra", "did you mean 'ewc-lora'")],
)
def test_a_word_that_means_none_or_several_is_refused(word, said):
    with pytest.raises(InputError, match=said):
        _trial(ROWS, word)
