"""What a learner says after each task."""

from dataclasses import dataclass

from lamina.evaluation.accuracy_matrix import Row


@dataclass(frozen=True)
class TaskReport:
    """Plain numbers: it travels as JSON."""

    task: int
    """Index of the task just learned, from 0."""
    task_name: str
    """What a person calls it."""
    num_tasks: int
    """Tasks of the stream."""
    validation: Row
    """R[task, i] for every task i, on the validation parts: what sweeps select on."""
    test: Row
    """The same on the test parts: only ever reported."""
    metrics: dict[str, float]
    """Everything else, by `validation/...`, `test/...`, `train/...`, `drift/...` and `cost/...`.
    What is not defined is absent."""
    done: bool
    """Whether that was the last task."""
