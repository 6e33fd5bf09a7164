"""Lamina from Python."""

import json
from pathlib import Path

import pytest
import yaml

import lamina
import small_job
from lamina.registry import InputError


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """What `run` gives, of a job that is a mapping."""
    folder = tmp_path_factory.mktemp("api")
    job = yaml.safe_load(small_job.write(folder).read_text())
    return lamina.run(job, "strategy.name=ncm")


def test_a_run_is_a_data_frame_with_a_column_for_each_changed_key(ran):
    frame = ran.frame()
    assert list(frame.index) == [1]
    assert frame["strategy"].tolist() == ["ncm"]
    assert 0 <= frame["average_accuracy"][1] <= 1


def test_the_matrix_of_a_trial_is_named_by_its_tasks(ran):
    matrix = ran.matrix()
    assert list(matrix.index) == list(matrix.columns) == ["task 1", "task 2"]
    assert matrix.loc["task 2"].mean() == pytest.approx(ran.frame()["average_accuracy"][1])
    assert ran.matrix(part="validation").shape == (2, 2)


def test_the_best_trial_answers(ran):
    (answer,) = ran.load().predict(["turn on the light"], top_k=4)
    assert answer.label == "light"
    assert answer.top[0][0] == "light"
    assert sum(score for _, score in answer.top) == pytest.approx(1.0, abs=1e-5)


def test_what_a_job_left_is_read_again(ran):
    assert lamina.results(ran.output_dir).rows == ran.rows
    assert lamina.load(ran.output_dir).class_names == ran.load().class_names


def test_what_is_no_text_is_refused(ran):
    predictor = ran.load()
    for wrong, said in ((["", "x"], "number 1"), (["x", 3], "number 2"), ("x", "a list of texts")):
        with pytest.raises(InputError, match=said):
            predictor.predict(wrong)
    assert predictor.predict([]) == []


def test_a_mistake_in_a_job_is_an_input_error_that_names_the_key(tmp_path):
    with pytest.raises(InputError, match=r"strategy\.name: 'err' is unknown; did you mean"):
        lamina.run({"strategy": {"name": "err"}, "output_dir": str(tmp_path)})
    with pytest.raises(InputError, match="holds no results"):
        lamina.results(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'sweeep'"):
        lamina.sweeep  # noqa: B018


def test_the_notebook_of_first_steps_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch):
    path = Path(__file__).parents[1] / "jobs" / "first_steps.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    first, second = names["answers"]
    assert "Light" in first.label or "light" in first.label
    assert "Timer" in second.label
    assert names["results"].frame()["average_accuracy"][1] > 0.5
