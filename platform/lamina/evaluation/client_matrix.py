"""R[c, t, j]: what client c would score at time t on its own test rows of task j, and the summaries
over clients.

A federation has two: of the global state, which is the same at every client but meets other rows,
and of what each client would serve (the personalised one). Both may be sparse: a client need not be
asked at all times, nor can it be on tasks of which it has no test rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lamina.evaluation.accuracy_matrix import AccuracyMatrix, Row
from lamina.evaluation.fairness import fairness, mean_over_clients, quantiles

SUMMARIES = (
    "average_accuracy",
    "pooled_accuracy",
    "average_incremental_accuracy",
    "forgetting",
    "backward_transfer",
    "learning_accuracy",
)
"""The summaries of `AccuracyMatrix` that are computed for each client."""


@dataclass(frozen=True)
class Check:
    """The accuracies of one client at one time."""

    time: float
    """Virtual time, or the number of the round: whatever grows."""
    learned: tuple[int, ...]
    """The tasks whose rows the client has had so far, in the order of their first arrival; the
    last is not always its current one, since tasks come back."""
    accuracy: Mapping[int, float]
    """Accuracy by task, for some of the tasks."""


@dataclass
class ClientMatrix:
    """The checks of all clients, for one part of their rows (validation or test)."""

    num_samples: Sequence[Sequence[int]]
    """[clients][tasks]: how many rows each has of each task, in that part."""
    checks: list[list[Check]] = field(default_factory=list)
    """The checks of each client, in the order of time."""

    def __post_init__(self) -> None:
        self.checks = self.checks or [[] for _ in self.num_samples]

    def add(self, client: int, check: Check) -> None:
        """One more check of a client, later than those before.

        Raises ValueError for an accuracy on a task of which the client has no rows.
        """
        for task in check.accuracy:
            if not self.num_samples[client][task]:
                raise ValueError(f"client {client} has no rows of task {task}")
        if self.checks[client] and check.time < self.checks[client][-1].time:
            raise ValueError(f"a check at {check.time} after one at {self.checks[client][-1].time}")
        self.checks[client].append(check)

    def of(self, client: int) -> AccuracyMatrix:
        """R of one client as if it were alone. R[k, i] is its accuracy on the i-th task that it
        learned, in its own order, at the last check before it got its (k+1)-th task.

        Tasks of which it has no rows in this part are left out: its accuracies while it learns them
        count to the task before. A stage without a check is a row of None, so summaries that need
        it are undefined.
        """
        sizes = self.num_samples[client]
        order = [task for task in self._learned(client) if sizes[task]]
        stages: dict[int, Check] = {}
        for check in self.checks[client]:
            known = sum(1 for task in check.learned if sizes[task])
            if known:
                stages[known - 1] = check
        matrix = AccuracyMatrix([sizes[task] for task in order])
        for stage in range(len(order)):
            row: Row = [None] * len(order)
            if stage in stages:
                row = [stages[stage].accuracy.get(task) for task in order]
            matrix.add(row)
        return matrix

    def of_each(self) -> list[dict[str, float]]:
        """The summaries of `of`, for each client; none of a client that was never asked."""
        matrices = map(self.of, range(len(self.checks)))
        return [matrix.summaries() if matrix.rows else {} for matrix in matrices]

    def weight(self, client: int) -> int:
        """The weight of a client in a weighted mean: its number of rows of the tasks that it has
        learned."""
        return sum(self.num_samples[client][task] for task in self._learned(client))

    def union_accuracy(self) -> float | None:
        """Share of all clients' rows of the tasks that each has learned that are right at its last
        check: sum_cj n_cj R[c, j] / sum_cj n_cj over what was asked.

        Of the global state it is the accuracy on the union of the clients' rows.
        """
        right, total = 0.0, 0
        for client, checks in enumerate(self.checks):
            if not checks:
                continue
            for task in checks[-1].learned:
                value = checks[-1].accuracy.get(task)
                if value is not None:
                    right += self.num_samples[client][task] * value
                    total += self.num_samples[client][task]
        return right / total if total else None

    def summaries(self) -> dict[str, float]:
        """For each summary of `AccuracyMatrix` the mean over the clients for which it is defined
        (`forgetting`), the mean weighted by `weight` (`forgetting/weighted`) and the quantiles over
        clients (`forgetting/p10`); the accuracy on the union; the fairness of the average
        accuracies (`fairness/jain`)."""
        found: dict[str, float] = {}
        each = self.of_each()
        weights = [self.weight(client) for client in range(len(self.checks))]
        for name in SUMMARIES:
            values = [summaries.get(name) for summaries in each]
            plain = mean_over_clients(values)
            weighted = mean_over_clients(values, weights)
            if plain is not None and weighted is not None:
                found |= {name: plain, f"{name}/weighted": weighted}
                found |= {f"{name}/{at}": value for at, value in quantiles(values).items()}
        union = self.union_accuracy()
        if union is not None:
            found["union_accuracy"] = union
        scores = [summaries.get("average_accuracy") for summaries in each]
        return found | {f"fairness/{name}": value for name, value in fairness(scores).items()}

    def _learned(self, client: int) -> tuple[int, ...]:
        checks = self.checks[client]
        return checks[-1].learned if checks else ()


def spatial_forgetting(
    before: Sequence[float | None],
    after: Sequence[float | None],
    weights: Sequence[float] | None = None,
) -> float | None:
    """Spatial forgetting, the cost of aggregation: the mean over clients (and times) of L_c - G_c,
    the accuracy of client c's local model on its current task before aggregation minus that of the
    aggregated one after it. Negative where aggregation helps. Clients for which one of the two is
    not known do not count.

    This is forgetting over clients; `forgetting` of each client's own R is over time (the terms are
    those of Yang et al., 2023, arXiv 2312.16475). When it is measured is our choice: L of the
    clients that take part in a task's last round, right after their steps; G from the model that
    they would use at the end of the stream's step.
    """
    pairs = zip(before, after, strict=True)
    drops = [None if low is None or up is None else low - up for low, up in pairs]
    return mean_over_clients(drops, weights)
