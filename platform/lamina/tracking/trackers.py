"""Which trackers a job asks for."""

from pathlib import Path

from lamina.tracking.base import CompositeTracker, Tracker
from lamina.tracking.json_lines import JsonLinesTracker
from lamina.tracking.mlflow_tracker import MlflowTracker


def make_tracker(
    output_dir: Path,
    enabled: bool,
    uri: str | None,
    experiment: str,
    source: str,
    run: str,
    events: Path | None = None,
    register: str | None = None,
    system_metrics: bool = False,
    measure: str = "accuracy",
) -> Tracker:
    """The tracker of a sweep or of a lone run: JSON lines always, MLflow unless it is switched off.

    Args:
        output_dir: The job's, where the embedded MLflow store is.
        enabled: Whether MLflow is written.
        uri: MLflow's store; None: the embedded one.
        experiment: MLflow's experiment.
        source: What made the runs, as a person reads it.
        run: The lasting key of the sweep or the lone run.
        events: The folder of events.jsonl; None: `output_dir`. A lone run has its own.
        register: The name under which MLflow registers the sweep's best model; None: it does not.
        system_metrics: Whether the load of this machine is recorded with the sweep.
        measure: What R is of.
    """
    trackers: list[Tracker] = [JsonLinesTracker(events or output_dir)]
    if enabled:
        trackers.append(
            MlflowTracker(
                output_dir,
                run=run,
                experiment=experiment,
                uri=uri,
                source=source,
                register=register,
                system_metrics=system_metrics,
                measure=measure,
            )
        )
    return CompositeTracker(trackers)
