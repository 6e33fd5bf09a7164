"""What the server of a federated run remembers, and how it is saved."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lamina.core import Summary
from lamina.federation.server.budgets import Budgets
from lamina.federation.server.clock import VirtualClock
from lamina.federation.server.history import History
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.server.scores import Scores
from lamina.federation.server.traffic import Traffic
from lamina.federation.shared_model import SharedModel
from lamina.federation.state import GlobalState
from lamina.registry import InputError

FORMAT = 4
"""Of what `ServerState.state_dict` gives: one more whenever its keys or their meaning change."""


def check_format(state: Mapping[str, Any]) -> None:
    """Raises InputError for a run's saved state of another format than this code reads."""
    found = state.get("format", 1)
    if found != FORMAT:
        raise InputError(
            f"output_dir: it holds a federated run in format {found}, and this version of Lamina "
            f"reads format {FORMAT} (allowed: a new folder, or the version that began the run)"
        )


class ServerState:
    """All that the rest of a run depends on besides its settings."""

    def __init__(self, settings: RunSettings) -> None:
        """As it is before the first entry.

        Raises InputError where the privacy budget does not cover the run.
        """
        num_clients, num_tasks = len(settings.manifest), len(settings.manifest.tasks)
        self.num_done = 0
        """Entries of the timetable that are over."""
        self.version = 0
        """Rounds that are over."""
        self.num_boundaries = 0
        """Task boundaries so far: the number of the shared model."""
        self.global_state = GlobalState({}, scaling=settings.scaling, seed=settings.seed)
        self.shared_model: SharedModel | None = None
        """None before the first boundary."""
        self.summary: Summary | None = None
        """The summed summaries of the clients, until the task boundary that they are for."""
        self.client_states: dict[int, str] = {}
        """By client, the digest of its `ClientState`."""
        self.clock = VirtualClock(settings.clock, settings.seed)
        self.history = History()
        self.traffic = Traffic(num_clients, num_tasks)
        self.budgets = Budgets(settings)
        self.scores: list[Scores] = []
        self.alone: dict[str, Tensor] = {}
        """`Scores.alone` of the scores to come."""

    def state_of(self, version: int) -> GlobalState:
        """The global state after so many rounds, as long as somebody trains from it."""
        return self.global_state if version == self.version else self.history.states[version]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "format": FORMAT,
            "num_done": self.num_done,
            "version": self.version,
            "num_boundaries": self.num_boundaries,
            "state": self.global_state.plain(),
            "shared_model": self.shared_model and self.shared_model.plain(),
            "summary": self.summary and dict(self.summary.sums),
            "client_states": {str(client): each for client, each in self.client_states.items()},
            "clock": self.clock.state_dict(),
            "history": self.history.state_dict(),
            "traffic": self.traffic.state_dict(),
            "budgets": self.budgets.state_dict(),
            "scores": [each.plain() for each in self.scores],
            "alone": dict(self.alone),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises InputError for another format."""
        check_format(state)
        self.num_done = state["num_done"]
        self.version = state["version"]
        self.num_boundaries = state["num_boundaries"]
        self.global_state = GlobalState.of(state["state"])
        self.shared_model = SharedModel.of(state["shared_model"]) if state["shared_model"] else None
        self.summary = Summary(state["summary"]) if state["summary"] else None
        self.client_states = {int(client): each for client, each in state["client_states"].items()}
        self.clock.load_state_dict(state["clock"])
        self.history.load_state_dict(state["history"])
        self.traffic.load_state_dict(state["traffic"])
        self.budgets.load_state_dict(state["budgets"])
        self.scores = [Scores(**each) for each in state["scores"]]
        self.alone = dict(state["alone"])
