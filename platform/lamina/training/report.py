"""The report of a learner after each task."""

from dataclasses import dataclass

from lamina.evaluation.accuracy_matrix import Row


@dataclass(frozen=True)
class TaskReport:
    """Plain numbers: it travels as JSON."""

    task: int
    """Index of the task just learned, from 0."""
    task_name: str
    """The task's name for people."""
    num_tasks: int
    """Tasks of the stream."""
    validation: Row
    """R[task, i] for every task i, on the validation parts: what sweeps select on."""
    test: Row
    """R[task, i] for every task i, on the test parts: reported, and used for no decision."""
    metrics: dict[str, float]
    """Everything else, by `validation/...`, `test/...`, `train/...`, `drift/...` and `cost/...`.
    What is not defined is absent."""
    done: bool
    """Whether that was the last task."""
