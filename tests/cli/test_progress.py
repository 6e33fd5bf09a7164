"""What a sweep's events look like to a person."""

from io import StringIO

from rich.console import Console

from lamina.cli.progress import SweepProgress, display


def told(*events, terminal=False):
    out = StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, highlight=False)
    with display(console, 6) as shown:
        progress = SweepProgress(shown, num_trials=3, num_tasks=2)
        for event in events:
            progress(event)
    return out.getvalue()


def report(task, validation):
    metrics = {"validation/average_accuracy": validation, "test/average_accuracy": 0.5}
    return {"task": task, "num_tasks": 2, "metrics": metrics}


EVENTS = [
    {"event": "sweep_started", "trial": None},
    {"event": "host_ready", "trial": None, "host": "host-0", "where": "cpu of here"},
    {"event": "submitted", "trial": "a-1", "name": "a"},
    {"event": "submitted", "trial": "b-1", "name": "b"},
    {"event": "started", "trial": "a-1", "host": "host-0"},
    {"event": "reported", "trial": "a-1", "report": report(0, 0.9)},
    {"event": "reported", "trial": "a-1", "report": report(1, 0.8)},
    {"event": "finished", "trial": "a-1"},
    {"event": "reported", "trial": "b-1", "report": report(0, 0.3)},
    {"event": "stopped", "trial": "b-1"},
    {"event": "known", "trial": "c-1", "name": "c", "reports": [report(0, 0.1), report(1, 0.2)]},
    {"event": "sweep_finished", "trial": None, "status": "finished"},
]


def test_a_log_has_a_plain_line_for_each_thing_that_matters():
    assert told(*EVENTS).splitlines() == [
        "host-0 is ready on cpu of here",
        "[1/3] a finished: validation 0.800, test 0.500",
        "[2/3] b stopped after 1 of 2 tasks: validation 0.300, test 0.500",
        "[3/3] c was finished before: validation 0.200, test 0.500",
    ]


def test_a_stopped_trial_that_goes_on_is_counted_once():
    more = [
        *EVENTS[:-1],
        {"event": "submitted", "trial": "b-1", "name": "b"},
        {"event": "reported", "trial": "b-1", "report": report(1, 0.4)},
        {"event": "finished", "trial": "b-1"},
    ]
    assert told(*more).splitlines()[-1] == "[3/3] b finished: validation 0.400, test 0.500"


def test_a_failure_says_its_last_line():
    text = "Traceback:\n  somewhere\nValueError: no good\n"
    failed = {"event": "failed", "trial": "a-1", "error": text}
    assert told(*EVENTS[:4], failed).splitlines()[-1] == "[1/3] a failed: ValueError: no good"


def test_a_terminal_has_a_bar_with_the_time_left():
    shown = told(*EVENTS[:6], terminal=True)
    assert "1/6" in shown
    assert "left" in shown
