"""The arithmetic of the benchmarks: medians, what holds, what is written, who is timed when."""

import json
import sys

import pytest

from harness import Lane, alternately, finish, ratios, records, seconds_of


def test_a_lane_is_judged_by_the_median_of_its_repetitions():
    lane = Lane("packing", [1.0, 9.0, 2.0], target=2.0)
    assert (lane.ratio, lane.holds) == (2.0, True)
    assert not Lane("packing", [1.0, 9.0, 2.0], target=2.1).holds


def test_a_lane_of_seconds_has_to_stay_below_its_target():
    assert Lane("overhead", [0.2, 0.3, 0.9], target=0.3, at_least=False).holds
    assert not Lane("overhead", [0.2, 0.31, 0.9], target=0.3, at_least=False).holds


def test_a_record_has_median_least_most_and_the_details():
    record = Lane("a", [3.0, 1.0], target=2.5, details={"trials": 8}).record()
    assert (record["ratio"], record["min"], record["max"]) == (2.0, 1.0, 3.0)
    assert (record["repeats"], record["holds"], record["trials"]) == (2, False, 8)
    assert record["target"] == "at least 2.5"


@pytest.mark.parametrize(
    ("ratio", "wanted", "passed"),
    [(2.0, ["a"], True), (2.0, ["a", "b"], False), (0.5, ["a"], False)],
)
def test_a_table_is_passed_when_every_lane_of_it_was_measured_and_holds(ratio, wanted, passed):
    assert records([Lane("a", [ratio], target=1.0)], wanted)["passed"] is passed


def test_a_quick_look_never_passes():
    assert not records([Lane("a", [9.0], target=1.0)], ["a"], small=True)["passed"]


def test_the_file_says_what_the_table_says(tmp_path, capsys):
    out = tmp_path / "out.json"
    finish("A title", [Lane("lane", [4.0], target=3.0)], ["lane", "other"], False, out)
    written = json.loads(out.read_text())
    assert (written["lane"]["ratio"], written["passed"]) == (4.0, False)
    assert "passed: no (not measured: other)" in capsys.readouterr().out


def test_two_sides_take_turns_and_the_first_turn_does_not_count():
    calls = []
    pairs = alternately(lambda: calls.append("first"), lambda: calls.append("second"), repeats=2)
    assert calls == ["first", "second", "second", "first", "first", "second"]
    assert len(pairs) == 2


def test_a_ratio_is_the_first_side_over_the_second():
    assert ratios([(6.0, 2.0), (1.0, 4.0)]) == [3.0, 0.25]


def test_a_command_that_fails_ends_the_benchmark_with_what_it_printed(tmp_path):
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(SystemExit, match="the reason"):
        seconds_of(command, tmp_path / "log")
    assert seconds_of([sys.executable, "-c", ""], tmp_path / "log") > 0
