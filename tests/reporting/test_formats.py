"""Files for other programs and for papers."""

import csv
import json
from dataclasses import replace
from io import StringIO

import pandas
import pytest

from lamina.reporting.formats import as_csv, as_json, as_latex, as_markdown
from lamina.reporting.results import Board


@pytest.fixture
def awkward(board):
    """A single trial whose name and settings have characters that formats take for their own."""
    first = board.trials[0]
    row = {**first.row, "strategy": "a|b_c&50%", "settings": {"key": 'x,"y"\n{z}~^\\'}}
    return Board("job", [replace(first, row=row), board.trials[1]])


def test_csv_has_a_line_for_each_trial_and_a_column_for_each_setting(board, awkward):
    table = pandas.read_csv(StringIO(as_csv([board])))
    assert len(table) == len(board.trials)
    assert set(table["training.learning_rate"]) == {0.01, 0.1}
    assert table["average_accuracy"].max() == pytest.approx(0.97 - 0.1)
    assert "error" not in table
    first, *_ = csv.DictReader(StringIO(as_csv([awkward])))
    assert first["key"] == 'x,"y"\n{z}~^\\'


def test_json_has_matrices_groups_and_comparisons_unrounded(board):
    (found,) = json.loads(as_json([board]))
    assert found["trials"][0]["average_accuracy"] == board.rows[0]["average_accuracy"]
    assert found["trials"][0]["accuracy_matrix"]["test"][0][1:] == [None, None]
    first = found["groups"][0]
    assert (first["strategy"], len(first["trials"])) == ("er", 3)
    assert first["estimates"]["average_accuracy"]["num"] == 3
    assert {"reference", "setting", "difference", "p_t_test", "p_sign_test", "p_adjusted"} <= set(
        found["comparisons"][0]
    )


def test_markdown_has_equal_lines_and_the_best_in_bold(board, awkward):
    text = as_markdown([board])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 5
    assert "**0.810 ± 0.020**" in lines[2]
    assert r"a\|b_c&50%" in as_markdown([awkward])
    assert all(
        line.startswith(("|", "job:")) for line in as_markdown([awkward]).split("\n") if line
    )


def test_latex_is_a_booktabs_table_with_nothing_unescaped(board, awkward):
    text = as_latex([board])
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + 5
    assert len({line.count(" & ") for line in body}) == 1
    assert r"\textbf{0.810 $\pm$ 0.020}" in text
    special = as_latex([awkward])
    assert r"a|b\_c\&50\%" in special
    assert r"\{z\}\textasciitilde{}\textasciicircum{}\textbackslash{}" in special
    assert special.count("{") - special.count(r"\{") == special.count("}") - special.count(r"\}")


def test_trials_are_the_lines_of_a_paper_where_the_seed_does_not_vary(board):
    alone = Board("job", board.trials[:1])
    assert "er | lora | lr 0.01, seed 2" in as_markdown([alone])
