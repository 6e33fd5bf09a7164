"""Answers of a trial by class."""

import pytest
from sklearn.metrics import f1_score

from finished_sweep import PREDICTIONS
from lamina.registry import InputError
from lamina.reporting.predictions import read_answers


def test_answers_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(PREDICTIONS)
    answers = read_answers(path)
    assert answers.classes == ["team, 0", "team, 1", "team, 2", "007"]
    assert answers.rows.tolist() == [2, 2, 2, 0]
    assert answers.accuracy[:3].tolist() == [0.5, 1.0, 0.5]
    assert answers.confusion[2].tolist() == [0, 0, 1, 1]
    expected = f1_score([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 3], average="macro")
    assert answers.macro_f1 == pytest.approx(expected)


def test_a_file_without_the_columns_is_refused(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("row,task,label\n1,2,3\n")
    with pytest.raises(InputError, match="needed: row, task, label, predicted"):
        read_answers(path)
