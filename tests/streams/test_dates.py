"""Dates are read in one way or refused with their rows; periods keep rows of one time together."""

from datetime import datetime, timedelta

import pytest

from lamina.registry import InputError
from lamina.streams.dates import are_dates, calendar_periods, equal_periods, read_dates


def read(cells):
    return read_dates(cells, "scenario.by: 'when'", lambda index: f"row {index + 1}")


@pytest.mark.parametrize(
    ("cells", "first"),
    [
        (["2025-03-02", "2025-01-31"], datetime(2025, 3, 2)),
        (["2025-03-02T10:20:30Z", "2025-01-31 00:00:00+02:00"], datetime(2025, 3, 2, 10, 20, 30)),
        (["2025-03-02 10:20:30.123456789", "2025-01-31"], datetime(2025, 3, 2, 10, 20, 30, 123456)),
        (["02.03.2025", "1.2.2025 14:05"], datetime(2025, 3, 2)),
        (["2025/03/02", "2025/12/01"], datetime(2025, 3, 2)),
        (["2/3/2025", "31/3/2025"], datetime(2025, 3, 2)),
        (["3/2/2025 1:05 PM", "3/31/2025"], datetime(2025, 3, 2, 13, 5)),
        (["2 Mar 2025", "31 January 2025"], datetime(2025, 3, 2)),
        (["March 2, 2025", "Jan 31, 2025"], datetime(2025, 3, 2)),
        (["2025-03", "2025-01"], datetime(2025, 3, 1)),
        (["2025", "2024"], datetime(2025, 1, 1)),
        (["4/4/2025", "5/5/2025"], datetime(2025, 4, 4)),
    ],
)
def test_a_column_is_read_in_the_one_way_that_reads_all_of_it(cells, first):
    assert read(cells)[0] == first


def test_a_time_with_an_offset_is_that_of_utc():
    assert read(["2025-01-01T00:30:00+02:00"]) == [datetime(2024, 12, 31, 22, 30)]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            ["01/02/2025", "03/04/2025", "05/05/2025"],
            "scenario.by: 'when': the dates may be day/month/year or month/day/year: '01/02/2025' "
            "(row 1), '03/04/2025' (row 2) (allowed: dates of one meaning, such as 2025-01-31)",
        ),
        (
            ["2025-01-01", "yesterday", "2025-02-30", "2025-01-02"],
            "scenario.by: 'when': 2 of 4 different dates cannot be read as the others are "
            "(ISO 8601): 'yesterday' (row 2), '2025-02-30' (row 3) (allowed: one way",
        ),
        (["31.12.25"], "1 of 1 different dates cannot be read: '31.12.25' (row 1)"),
        (["1735689600"], "'1735689600' (row 1)"),
        (
            ["2025-01-01T00:00:00Z", "2025-01-02"],
            "'2025-01-01T00:00:00Z' (row 1) says its offset from UTC and '2025-01-02' (row 2) does "
            "not (allowed: all or none)",
        ),
    ],
)
def test_dates_of_two_meanings_or_none_are_refused_with_their_rows(cells, message):
    with pytest.raises(InputError) as caught:
        read(cells)
    assert message in str(caught.value)


def test_words_and_numbers_are_no_dates():
    assert are_dates(["2025-01-01", "2025-02-01"])
    assert are_dates(["01/02/2025"])
    assert not any(are_dates([each]) for each in ("hello", "3", "2025", "12345678", "1.5", ""))


def test_calendar_periods_come_by_time_and_only_where_there_are_rows():
    days = ["2025-11-30", "2024-02-01", "2025-10-01", "2024-01-31"]
    times = {row: datetime.fromisoformat(day) for row, day in enumerate(days)}
    assert calendar_periods(times, "month") == {
        "2024-01": [3],
        "2024-02": [1],
        "2025-10": [2],
        "2025-11": [0],
    }
    assert calendar_periods(times, "quarter") == {"2024-Q1": [3, 1], "2025-Q4": [2, 0]}
    assert calendar_periods(times, "year") == {"2024": [3, 1], "2025": [2, 0]}


def test_equal_periods_have_as_many_rows_each_and_are_called_by_their_days():
    start = datetime(2025, 1, 1)
    times = {row: start + timedelta(days=99 - row) for row in range(100)}
    periods = equal_periods(times, 3)
    assert [len(rows) for rows in periods.values()] == [33, 34, 33]
    assert next(iter(periods)) == "2025-01-01 to 2025-02-02"
    assert next(iter(periods.values()))[:2] == [99, 98]


def test_rows_of_one_time_stay_in_one_period_and_none_is_empty():
    days = [1] * 50 + [2] * 2 + [3] * 3
    times = {row: datetime(2025, 1, day) for row, day in enumerate(days)}
    assert {name: len(rows) for name, rows in equal_periods(times, 3).items()} == {
        "2025-01-01": 50,
        "2025-01-02": 2,
        "2025-01-03": 3,
    }
    with pytest.raises(InputError, match=r"num_tasks: 4 is more than .* \(allowed: 1 to 3\)"):
        equal_periods(times, 4)


def test_periods_within_a_day_are_called_by_their_times():
    times = {row: datetime(2025, 1, 1, row) for row in range(4)}
    assert list(equal_periods(times, 2)) == [
        "2025-01-01 00:00:00 to 2025-01-01 01:00:00",
        "2025-01-01 02:00:00 to 2025-01-01 03:00:00",
    ]
