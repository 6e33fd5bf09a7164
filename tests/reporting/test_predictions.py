"""Answers of a trial by class."""

import pytest
from sklearn.metrics import f1_score

from finished_sweep import PREDICTIONS
from lamina.registry import InputError
from lamina.reporting.predictions import read_class_report


def test_answers_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(PREDICTIONS)
    report = read_class_report(path)
    assert report.classes == ["team, 0", "team, 1", "team, 2", "007"]
    assert report.rows.tolist() == [2, 2, 2, 0]
    assert report.accuracy[:3].tolist() == [0.5, 1.0, 0.5]
    assert report.confusion[2].tolist() == [0, 0, 1, 1]
    expected = f1_score([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 3], average="macro")
    assert report.macro_f1 == pytest.approx(expected)
    assert report.top(5) is None


def test_classes_stand_task_by_task_and_places_give_the_top_k(tmp_path):
    path = tmp_path / "predictions.csv"
    lines = ["row,task,label,predicted,place"]
    lines += ["0,second,b,b,1", "1,second,a,b,2", "2,first,z,q,6", "3,first,c,c,1"]
    path.write_text("\n".join(lines) + "\n")
    report = read_class_report(path)
    assert report.classes == ["a", "b", "c", "z", "q"]
    assert (report.top(1), report.top(2), report.top(6)) == (0.5, 0.75, 1.0)


def test_a_file_without_the_columns_is_refused(tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text("row,task,label\n1,2,3\n")
    with pytest.raises(InputError, match="needed: row, task, label, predicted"):
        read_class_report(path)
