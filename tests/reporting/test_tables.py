"""Tables: what is marked, what is left out, what is compared."""

import pytest

from lamina.reporting.tables import comparison_table, group_table, trial_table


def column(table, key):
    """The cells of a column."""
    place = [each.key for each in table.columns].index(key)
    return [row[place] for row in table.rows]


def test_the_best_of_the_continual_methods_is_marked_and_a_bound_is_not(board):
    cells = column(trial_table(board.rows), "average_accuracy")
    best = [row for row, cell in zip(board.rows, cells, strict=True) if cell.is_best]
    assert [row["name"] for row in best] == ["er-seed2-lr0.01"]
    assert max(row["average_accuracy"] or 0 for row in board.rows) > best[0]["average_accuracy"]


def test_what_looks_equal_is_equally_best(board):
    rows = [
        {**row, "average_accuracy": 0.50001 + place / 1e6} for place, row in enumerate(board.rows)
    ]
    cells = column(trial_table(rows), "average_accuracy")
    assert sum(cell.is_best for cell in cells) > 5


def test_a_column_that_no_trial_has_is_left_out_and_a_status_is_shown_where_one_differs(board):
    keys = [each.key for each in trial_table(board.rows).columns]
    assert "forward_transfer" not in keys
    assert keys[-1] == "status"
    assert "status" not in [each.key for each in trial_table(board.rows[:3]).columns]


def test_settings_over_seeds_have_mean_deviation_and_interval(board):
    table = group_table(board.groups)
    assert [cell.text for cell in column(table, "seeds")] == ["3", "3", "3", "1", "3"]
    first = column(table, "average_accuracy")[0]
    # Seeds are 0.02 apart: s = 0.02, and 4.302653 * 0.02 / 3**.5 = 0.0497.
    assert first.text == "0.810 ± 0.020"
    assert first.is_best
    assert column(table, "interval")[0].text == "[0.760, 0.860]"
    assert column(table, "average_accuracy")[3].text == "0.400"
    assert column(table, "interval")[3].text == "-"


def test_settings_are_compared_over_common_seeds(board):
    table = comparison_table(board.groups[0], board.groups)
    names = [cell.text for cell in column(table, "setting")]
    assert len(names) == 4
    assert "er lora, lr 0.01" not in names
    assert column(table, "difference")[0].value == pytest.approx(-0.09)
    # One common seed has no t test.
    assert [cell.text for cell in column(table, "p_t_test")].count("-") >= 1


def test_chosen_columns_come_in_the_order_that_was_asked_for(board):
    table = trial_table(board.rows).only("forgetting", "not_there", "rank")
    assert [each.key for each in table.columns] == ["forgetting", "rank"]
    assert table.rows[0][1].text == "1"
