"""Which trackers a job asks for."""

from pathlib import Path

from lamina.tracking.base import CompositeTracker, Tracker
from lamina.tracking.json_lines import JsonLinesTracker
from lamina.tracking.mlflow_tracker import MlflowTracker


def make_tracker(
    output_dir: Path, enabled: bool, uri: str | None, experiment: str, source: str, run: str
) -> Tracker:
    """The tracker of a sweep: lines of JSON always, MLflow unless it is switched off."""
    trackers: list[Tracker] = [JsonLinesTracker(output_dir)]
    if enabled:
        trackers.append(
            MlflowTracker(output_dir, run=run, experiment=experiment, uri=uri, source=source)
        )
    return CompositeTracker(trackers)
