"""What a federated run reached, from its scores: matrices of accuracies, and their summaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from lamina.core import Part
from lamina.evaluation.accuracy_matrix import AccuracyMatrix
from lamina.evaluation.client_matrix import Check, ClientMatrix, spatial_forgetting
from lamina.evaluation.fairness import mean_over_clients
from lamina.evaluation.measures import named
from lamina.evaluation.participation import participation, staleness
from lamina.federation.server.rounds import FederatedRun
from lamina.federation.server.scores import EVALUATED, Scores
from lamina.streams.manifest import StreamManifest


@dataclass(frozen=True)
class Bound:
    """Accuracies of a learner that is trained beside the federation."""

    rows: Mapping[str, list[list[float | None]]]
    """By part of the data (validation, test), R."""
    tasks: tuple[str, ...]
    """The names of its tasks."""
    error: str | None = None
    """Why it has failed; it has no rows then."""


def client_matrix(scores: Sequence[Scores], manifest: StreamManifest, part: Part) -> ClientMatrix:
    """R[c, t, j]: after each step of the stream, the accuracy of what each client would serve, on
    its own validation or test rows."""
    asked = manifest.counts[:, :, 1 + EVALUATED.index(part)]
    matrix = ClientMatrix(asked.tolist())
    for client in range(len(manifest)):
        deliveries = manifest.deliveries(client)
        for each in scores:
            past = [delivery.task for delivery in deliveries if delivery.time < each.step + 1]
            right, number = each.right[part][client], each.asked[part][client]
            accuracy = {
                task: float(right[task] / number[task])
                for task in range(len(manifest.tasks))
                if number[task] > 0
            }
            matrix.add(client, Check(float(each.step), tuple(dict.fromkeys(past)), accuracy))
    return matrix


def global_matrix(scores: Sequence[Scores], manifest: StreamManifest, part: Part) -> AccuracyMatrix:
    """R[t, j] of the global state on the rows of all clients (where clients serve models of their
    own: of each on its own rows, together). A task is learned in the first step in which it came to
    a client."""
    tasks = range(len(manifest.tasks))
    sizes = [int(n) for n in manifest.counts[:, :, 1 + EVALUATED.index(part)].sum(dim=0)]
    first = _first_times(manifest)
    learned = [sum(each.step + 1 <= first[task] for each in scores) for task in tasks]
    matrix = AccuracyMatrix(sizes, learned=learned)
    for each in scores:
        right, number = each.right[part][-1], each.asked[part][-1]
        matrix.add([float(right[j] / number[j]) if number[j] > 0 else None for j in tasks])
    return matrix


def _first_times(manifest: StreamManifest) -> list[float]:
    """When the first rows of each task came to anybody, in stream steps."""
    first = [inf] * len(manifest.tasks)
    for client in range(len(manifest)):
        for delivery in manifest.deliveries(client):
            first[delivery.task] = min(first[delivery.task], delivery.time)
    return first


def summaries_of(run: FederatedRun) -> dict[str, float]:
    """Every number of a run that is defined, by name."""
    manifest, traffic, measure = run.settings.manifest, run.server.traffic, run.settings.measure
    found: dict[str, float] = {}
    for part in EVALUATED:
        of_all = global_matrix(run.server.scores, manifest, part).summaries()
        found |= {f"{part}/{named(name, measure)}": value for name, value in of_all.items()}
        of_clients = client_matrix(run.server.scores, manifest, part).summaries()
        found |= {f"{part}/clients/{named(name, measure)}": v for name, v in of_clients.items()}
        pairs = [pair for each in run.server.scores for pair in each.spatial_forgetting(part)]
        drop = spatial_forgetting([local for local, _ in pairs], [served for _, served in pairs])
        found |= {} if drop is None else {f"{part}/clients/spatial_forgetting": drop}
    included = {client: int(n) for client, n in enumerate(traffic.included)}
    shares = participation(included, len(manifest), run.server.version)
    found |= {f"participation/{name}": value for name, value in shares.items()}
    found |= {f"staleness/{name}": value for name, value in staleness(traffic.staleness).items()}
    found |= {f"refused/{why}": float(number) for why, number in traffic.refused.items()}
    if (epsilon := run.server.budgets.epsilon) is not None:
        found["privacy/epsilon"] = epsilon
    found["bytes/up"] = float(traffic.up.sum())
    found["bytes/down"] = float(traffic.down.sum())
    for task in range(len(manifest.tasks)):
        found[f"bytes/up/task_{task}"] = float(traffic.up_of_task[task])
        found[f"bytes/down/task_{task}"] = float(traffic.down_of_task[task])
    found["virtual_seconds"] = run.server.clock.time
    return found


def result_of(
    run: FederatedRun, sha: str, central: Bound | None, alone: Mapping[int, Bound]
) -> dict[str, Any]:
    """All that is known of a finished run, as JSON: metrics, and a row for each client. `central`
    is the bound of one learner on the rows of all, `alone` that of each client by itself."""
    manifest, measure = run.settings.manifest, run.settings.measure
    metrics = summaries_of(run)
    clients = _rows_of_clients(run, alone)
    if central is not None and central.tasks:
        sizes = [int(n) for n in manifest.counts[:, :, 2].sum(dim=0)]
        of_all = bound_matrix(central.rows, sizes).summaries()
        metrics |= {f"bound/central/{named(name, measure)}": v for name, v in of_all.items()}
    if central is not None:
        for key, name in ((measure, f"average_{measure}"), ("forgetting", "forgetting")):
            mean = mean_over_clients([row.get(f"alone_{key}") for row in clients])
            if mean is not None:
                metrics[f"bound/alone/{name}"] = mean
    private, by_client = run.settings.row_privacy, run.settings.private
    if private is None and by_client is not None and run.server.budgets.epsilon is not None:
        private = by_client.settings
    return {
        "sha": sha,
        "manifest": manifest.hash,
        "measure": measure,
        "metrics": metrics,
        "privacy": private and {"unit": private.unit, "delta": private.delta},
        "clients": clients,
    }


def _rows_of_clients(run: FederatedRun, alone: Mapping[int, Bound]) -> list[dict[str, Any]]:
    manifest, measure = run.settings.manifest, run.settings.measure
    counts = manifest.counts
    each = client_matrix(run.server.scores, manifest, "test").of_each()
    number_of = {name: number for number, name in enumerate(manifest.tasks)}
    spent = run.server.budgets.of_rows.by_client() if run.server.budgets.of_rows is not None else {}
    clients = []
    for number, client in enumerate(manifest.clients):
        row: dict[str, Any] = {
            "client": client.name,
            "rows": int(counts[number, :, 0].sum()),
            measure: each[number].get("average_accuracy"),
            "forgetting": each[number].get("forgetting"),
            "bytes_up": int(run.server.traffic.up[number]),
            "bytes_down": int(run.server.traffic.down[number]),
            "included": int(run.server.traffic.included[number]),
        }
        if number in spent:
            row["epsilon"] = spent[number]
        if number in alone:
            bound = alone[number]
            sizes = [int(counts[number, number_of.get(task, 0), 2]) for task in bound.tasks]
            reached = bound_matrix(bound.rows, sizes).summaries() if bound.tasks else {}
            row |= {
                f"alone_{measure}": reached.get("average_accuracy"),
                "alone_forgetting": reached.get("forgetting"),
            }
        clients.append(row)
    return clients


def bound_matrix(rows: Mapping[str, Sequence[Any]], sizes: Sequence[int]) -> AccuracyMatrix:
    """R of a learner that was trained beside the federation, on the test part."""
    return AccuracyMatrix(list(sizes), [list(row) for row in rows["test"]])
