"""The accuracy matrix R and its summaries. R[t, i] is the accuracy on task i after training task t,
both from 0; or what another measure says of its answers (`measures/`), and then its summaries are
called by that.

One matrix gives four different "forgetting" values in four published toolkits, so every summary
states its formula. T is the number of tasks trained so far, t = T - 1 the last one. A summary is
None where it is not defined.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from lamina.evaluation.measures import named

Row = list[float | None]


@dataclass
class AccuracyMatrix:
    """Rows R[t], and the number of samples of each task, for one part (validation or test) of a
    stream."""

    num_samples: list[int]
    """Samples of each task's part."""
    rows: list[Row] = field(default_factory=list)
    """R[t, i] for every trained t and every i; None where a model cannot be asked (classes not yet
    seen, say)."""
    learned: list[int] | None = None
    """The row of the training in which each task was learned for the first time. By default task i
    is learned in training i; clients that each have an order of their own learn several at once."""
    measure: str = "accuracy"
    """The name of the measure whose values R holds."""
    better: Literal["max", "min"] = "max"
    """Whether more or less of the measure is better. Where less is better, forgetting is a rise and
    a transfer a fall, so that both keep their meaning."""

    def add(self, row: Row) -> None:
        """The accuracies after one more task."""
        if len(row) != len(self.num_samples):
            raise ValueError(f"a row of {len(row)} accuracies for {len(self.num_samples)} tasks")
        self.rows.append(row)

    def summaries(self, chance: float | None = None) -> dict[str, float]:
        """Every summary that is defined, by name."""
        values = {
            "average_accuracy": self.average_accuracy(),
            "pooled_accuracy": self.pooled_accuracy(),
            "average_incremental_accuracy": self.average_incremental_accuracy(),
            "average_incremental_pooled_accuracy": self.average_incremental_pooled_accuracy(),
            "forgetting": self.forgetting(),
            "forgetting_including_last": self.forgetting_including_last(),
            "backward_transfer": self.backward_transfer(),
            "forward_transfer": self.forward_transfer(chance),
            "learning_accuracy": self.learning_accuracy(),
        }
        return {
            named(name, self.measure): value for name, value in values.items() if value is not None
        }

    def average_accuracy(self, after: int = -1) -> float | None:
        """Mean over the tasks seen of the accuracy on each, (1/T) sum_{i<T} R[T-1, i].

        The field's "final average accuracy", "last accuracy" of L2P, CODA-Prompt, mammoth and
        Renate.
        """
        return _mean(self._seen(after))

    def pooled_accuracy(self, after: int = -1) -> float | None:
        """Share of all samples of the tasks seen that are right (iCaRL, PILOT): the mean weighted
        by sample counts, of other measures too."""
        seen = self._seen(after)
        if not seen or None in seen:
            return None
        counts = [self.num_samples[task] for task in self._tasks(after)]
        right = sum(count * value for count, value in zip(counts, seen, strict=True) if value)
        return right / sum(counts)

    def average_incremental_accuracy(self) -> float | None:
        """Mean over t of `average_accuracy` after task t."""
        return _mean([self.average_accuracy(after) for after in range(len(self.rows))])

    def average_incremental_pooled_accuracy(self) -> float | None:
        """Mean over t of `pooled_accuracy` after task t (the "average accuracy" of iCaRL and
        PILOT)."""
        return _mean([self.pooled_accuracy(after) for after in range(len(self.rows))])

    def forgetting(self) -> float | None:
        """Chaudhry et al. (2018), eq. 3: (1/(T-1)) sum_{i<T-1} (max_{i<=l<T-1} R[l, i] - R[T-1,
        i]).

        The best accuracy before the last training minus the last, so it is negative where a task
        improved. Rows l < i (a task before it was learned) do not count.
        """
        return self._forgetting(with_last=False)

    def forgetting_including_last(self) -> float | None:
        """Forgetting with the last row among the best, so never negative (mammoth, PILOT)."""
        return self._forgetting(with_last=True)

    def backward_transfer(self) -> float | None:
        """Lopez-Paz and Ranzato (2017): (1/(T-1)) sum_{i<T-1} (R[T-1, i] - R[i, i])."""
        own = self._first_rows()
        return _mean([self._gain(self.rows[-1][i], self.rows[own[i]][i]) for i in self._tasks(-2)])

    def forward_transfer(self, chance: float | None) -> float | None:
        """Lopez-Paz and Ranzato (2017): (1/(T-1)) sum_{0<i<T} (R[i-1, i] - b_i), with b_i =
        `chance`.

        Undefined where a task's classes are not known before it is learned, as in class-incremental
        streams.
        """
        own = self._first_rows()
        ahead = [self.rows[own[i] - 1][i] for i in self._tasks(-1) if own[i] > 0]
        return _mean([self._gain(value, chance) for value in ahead])

    def learning_accuracy(self) -> float | None:
        """Mean accuracy on each task right after it was learned, (1/T) sum_i R[i, i]:
        plasticity.
        """
        own = self._first_rows()
        return _mean([self.rows[own[i]][i] for i in self._tasks(-1)])

    def _first_rows(self) -> Sequence[int]:
        return range(len(self.num_samples)) if self.learned is None else self.learned

    def _tasks(self, after: int) -> list[int]:
        """The tasks that are learned after a row; none where there is no such row."""
        if not -len(self.rows) <= after < len(self.rows):
            return []
        index = range(len(self.rows))[after]
        return [task for task, own in enumerate(self._first_rows()) if own <= index]

    def _seen(self, after: int) -> Row:
        return [self.rows[after][task] for task in self._tasks(after)]

    def _forgetting(self, *, with_last: bool) -> float | None:
        own = self._first_rows()
        drops: Row = []
        for i in self._tasks(-2):
            *earlier, last = self.rows[own[i] :]
            known = [value for row in earlier if (value := row[i]) is not None]
            if with_last and known and (value := last[i]) is not None:
                known.append(value)
            best = (max if self.better == "max" else min)(known) if known else None
            drops.append(self._gain(best, last[i]))
        return _mean(drops)

    def _gain(self, first: float | None, second: float | None) -> float | None:
        """How much better the first is than the second."""
        gain = _minus(first, second)
        return -gain if gain is not None and self.better == "min" else gain


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def _mean(values: Row) -> float | None:
    """The mean; None where there is no value or one is not defined."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None
