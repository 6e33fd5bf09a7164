"""Several trackers as one."""

from pathlib import Path

import pandas
import pytest

from lamina.tracking.base import CompositeTracker, TrackingError
from lamina.tracking.json_lines import JsonLinesTracker
from lamina.tracking.model import TrackedModel


class Broken(JsonLinesTracker):
    """A tracker that could not write everything."""

    def close(self) -> None:
        super().close()
        raise TrackingError("half of it is missing")


def test_every_tracker_hears_everything(tmp_path):
    tracker = CompositeTracker([JsonLinesTracker(tmp_path / "a"), JsonLinesTracker(tmp_path / "b")])
    tracker.start_sweep("sweep", {"seed": 0}, "what it is")
    tracker.data(None, {"name": "nouns", "digest": "0123", "tasks": []})
    tracker.start_trial("t0", {"strategy": {"name": "er"}}, "er")
    tracker.data("t0", {"name": "nouns", "digest": "0123", "tasks": []})
    tracker.log("t0", {"validation/average_accuracy": 0.5}, step=0)
    tracker.artifact("t0", Path("matrix.json"))
    tracker.finish_trial("t0", "finished")
    tracker.model(
        TrackedModel(Path("bundle"), "t0", "text", "classes", ("task",), False, None, (), {})
    )
    tracker.finish_sweep("finished")
    tracker.close()

    heard = [pandas.read_json(tmp_path / name / "events.jsonl", lines=True) for name in "ab"]
    assert list(heard[0].event) == [
        "start_sweep",
        "data",
        "start_trial",
        "data",
        "log",
        "artifact",
        "finish_trial",
        "model",
        "finish_sweep",
    ]
    assert list(heard[0].event) == list(heard[1].event)


def test_all_are_closed_although_one_of_them_fails(tmp_path):
    last = JsonLinesTracker(tmp_path / "b")
    tracker = CompositeTracker([Broken(tmp_path / "a"), last])

    with pytest.raises(TrackingError, match="half of it"):
        tracker.close()
    with pytest.raises(ValueError, match="closed file"):
        last.log("t0", {}, step=0)
