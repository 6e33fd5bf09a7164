"""Sweeps that are watched, and what their trials give alone."""

import pytest
import torch

from lamina.config import parse_job
from lamina.orchestration.sweep import run_sweep
from lamina.orchestration.workshop import Workshop

RAY = [
    pytest.mark.ray,
    # Ray 2.60 copies a context of its own, attribute by deprecated attribute.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
]
"""The marks of a test that runs a sweep."""


def matrix(reports):
    """R of the validation and the test parts."""
    return [(each["validation"], each["test"]) for each in reports]


def matrix_alone(mapping):
    """R of a trial that is trained here and now, without Ray."""
    workshop = Workshop(torch.device("cpu"), lambda _, build: build())
    reports = list(workshop.learner(mapping).learn())
    return [(each.validation, each.test) for each in reports]


class Watched:
    """Runs a sweep, keeps its events, and calls `react` with each."""

    def __init__(self, mapping, react=lambda event: None):
        self.events = []
        self._react = react
        self.rows = run_sweep(parse_job(mapping), self._on_event)

    def _on_event(self, event):
        self.events.append(event)
        self._react(event)

    def of(self, kind, **fields):
        """The events of a kind with these fields."""
        return [
            event
            for event in self.events
            if event["event"] == kind and fields.items() <= event.items()
        ]
