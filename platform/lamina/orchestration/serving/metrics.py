"""Metrics of served bundles, in the text format of Prometheus."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from lamina.orchestration.serving.question import Question

CONTENT_TYPE = CONTENT_TYPE_LATEST
NO_BUNDLE = ""
"""The label of requests that were refused before they named a bundle."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts by bundle."""

    def __init__(self, bundles: Sequence[str]) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "lamina_requests",
            "Requests that were answered, by HTTP status",
            ["bundle", "status"],
            registry=registry,
        )
        self._rows = Counter(
            "lamina_rows", "Inputs that were answered", ["bundle"], registry=registry
        )
        self._seconds = Histogram(
            "lamina_request_seconds",
            "From a request's arrival to its answer",
            ["bundle"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "lamina_batch_rows",
            "Inputs of a bundle in a batch",
            ["bundle"],
            buckets=_ROWS,
            registry=registry,
        )
        self._batches = Histogram(
            "lamina_batch_bundles",
            "Bundles in a batch",
            buckets=tuple(range(1, 9)),
            registry=registry,
        )
        self._waiting = Gauge(
            "lamina_waiting_rows", "Inputs that wait for a replica", registry=registry
        )
        for name in bundles:
            # There from the start, as 0.
            self._rows.labels(name)

    def answered(self, bundle: str, status: int, rows: int, seconds: float) -> None:
        """A request is over."""
        self._requests.labels(bundle, str(status)).inc()
        if status == 200:
            self._rows.labels(bundle).inc(rows)
            self._seconds.labels(bundle).observe(seconds)

    def sent(self, batch: Sequence[Question]) -> None:
        """A batch goes to a replica."""
        rows: dict[str, int] = {}
        for each in batch:
            rows[each.bundle] = rows.get(each.bundle, 0) + len(each.values)
        for bundle, number in rows.items():
            self._batch_rows.labels(bundle).observe(number)
        self._batches.observe(len(rows))

    def text(self, waiting_rows: int) -> bytes:
        """All metrics as text."""
        self._waiting.set(waiting_rows)
        return generate_latest(self._registry)
