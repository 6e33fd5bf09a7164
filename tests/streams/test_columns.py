"""What columns are for is guessed from names and cells, and every guess says why."""

import pytest

from lamina.streams.columns import Column, roles_of
from tickets import tickets


def columns_of(rows):
    return [Column(name, [row[name] for row in rows]) for name in rows[0]]


def test_tickets_have_texts_labels_and_dates():
    roles = roles_of(columns_of(tickets(400)))
    assert (roles.text, roles.label, roles.date) == (("Ticket text",), "team", "created at")
    assert (roles.task, roles.maybe_tasks) == (None, ("channel",))
    assert roles.reasons["team"] == "labels: 12 classes of 33 rows on average, and its name"
    assert roles.reasons["ticket id"] == "another in every row: an id"
    assert roles.reasons["priority"] == "3 different numbers in 400 rows"
    assert roles.reasons["Ticket text"].startswith("texts: ")


def test_a_subject_comes_before_its_body():
    rows = [
        {
            "body": f"{n} words that go on for long",
            "subject": f"about {n} things",
            "intent": "ab"[n % 2],
        }
        for n in range(40)
    ]
    assert roles_of(columns_of(rows)).text == ("subject", "body")


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (("source", "label"), "label"),
        (("team", "priority"), "team"),
        (("one", "two"), "two"),
        (("assignedTeam", "status"), "assignedTeam"),
        (("domain", "answer"), "answer"),
    ],
)
def test_labels_go_by_their_name_and_then_by_their_place(names, label):
    rows = [
        {"text": f"a text of many words {n}", names[0]: "ab"[n % 2], names[1]: "cde"[n % 3]}
        for n in range(30)
    ]
    assert roles_of(columns_of(rows)).label == label


def test_words_are_likelier_labels_than_numbers():
    rows = [
        {"text": f"a text of many words {n}", "x": ("yes", "no")[n % 2], "z": str(n % 3)}
        for n in range(30)
    ]
    assert roles_of(columns_of(rows)).label == "x"


def test_a_column_called_task_makes_tasks():
    rows = [
        {"text": f"a text of many words {n}", "domain": "ab"[n % 2], "label": "cde"[n % 3]}
        for n in range(30)
    ]
    roles = roles_of(columns_of(rows))
    assert (roles.task, roles.reasons["domain"]) == ("domain", "tasks: 2 values, and its name")


def test_a_person_knows_better():
    columns = columns_of(tickets(100))
    roles = roles_of(columns, text=("channel", "Ticket text"), label="priority")
    assert (roles.text, roles.label) == (("channel", "Ticket text"), "priority")
    assert roles.reasons["priority"] == "labels, as you say: 3 classes"


def test_what_has_no_use_says_why():
    rows = [
        {"text": f"a text of many words {n}", "label": "ab"[n % 2], "same": "x", "none": " "}
        | {"created": f"2025-01-{n + 1:02}", "closed": f"2025-02-{n + 1:02}"}
        for n in range(20)
    ]
    reasons = roles_of(columns_of(rows)).reasons
    assert reasons["same"] == "the same in every row"
    assert reasons["none"] == "empty"
    assert reasons["closed"] == "dates, and another column of dates is taken"


def test_a_table_without_texts_or_labels_has_none():
    roles = roles_of(columns_of([{"a": str(n), "b": f"{n}.5"} for n in range(9)]))
    assert (roles.text, roles.label, roles.date) == ((), None, None)
