"""Accuracy in the middle of training: learning curves of single tasks, and accuracy at any time."""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from lamina.core import Part
from lamina.training.settings import TrainingSettings

Ask = Callable[[Part, int], float]
"""The accuracy of now on a part of a task, by the task's index."""


class Probes:
    """Asks for accuracies when they are due, and sums them up."""

    def __init__(self, settings: TrainingSettings) -> None:
        self._every = settings.anytime_every
        self._curve_batches = settings.learning_curve_batches
        self.curves: dict[Part, list[list[float]]] = {"validation": [], "test": []}
        self.anytime: dict[Part, list[float]] = {"validation": [], "test": []}
        self._rows = 0

    def before_task(self, task: int, ask: Ask) -> None:
        """The start of a task's learning curve, Z_0."""
        if self._curve_batches > 0:
            for part, curves in self.curves.items():
                curves.append([ask(part, task)])

    def after_step(self, task: int, num_rows: int, ask: Ask) -> None:
        """Measure the next point of the learning curve and of the anytime accuracy, where it is
        due."""
        if self._curve_batches > 0 and len(self.curves["test"][-1]) <= self._curve_batches:
            for part, curves in self.curves.items():
                curves[-1].append(ask(part, task))
        self._rows += num_rows
        if self._every is not None and self._rows >= self._every:
            self._rows -= self._every
            for part, values in self.anytime.items():
                seen = [ask(part, each) for each in range(task + 1)]
                values.append(fmean(seen))

    def metrics(self, measure: str = "accuracy") -> dict[str, float]:
        """`learning_curve_area` (Chaudhry et al., 2019): LCA_b = (1/(b+1)) sum_{k<=b} Z_k, with Z_k
        the mean over tasks of the accuracy on a task after k batches of it; `anytime_accuracy` (Koh
        et al., 2022, A_AUC): the mean over time of the accuracy on the tasks seen. Of another
        measure the latter is called by its name."""
        found = {}
        for part, curves in self.curves.items():
            if curves:
                # A task of fewer batches than b counts with those that it has.
                area = fmean(fmean(curve) for curve in curves)
                found[f"{part}/learning_curve_area"] = area
        for part, values in self.anytime.items():
            if values:
                found[f"{part}/anytime_{measure}"] = fmean(values)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"curves": self.curves, "anytime": self.anytime, "rows": self._rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.curves = {
            part: [list(curve) for curve in curves] for part, curves in state["curves"].items()
        }
        self.anytime = {part: list(values) for part, values in state["anytime"].items()}
        self._rows = state["rows"]
