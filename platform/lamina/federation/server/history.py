"""Earlier global states that a client still trains from, where rounds do not wait for everybody."""

from collections.abc import Mapping, Sequence
from typing import Any

from lamina.federation.server.clock import Start
from lamina.federation.state import GlobalState


class History:
    """What clients in flight were given, and when. Empty where rounds wait for their clients."""

    def __init__(self) -> None:
        self.states: dict[int, GlobalState] = {}
        """By version (the number of rounds that were over), the state that was given."""
        self._times: dict[int, float] = {}
        """By the number of a client's start, the stream time at which it was given work."""

    def time_of(self, start: Start) -> float:
        """When a client in flight was given its work, in stream steps."""
        return self._times[start.number]

    def keep(
        self, in_flight: Sequence[Start], version: int, state: GlobalState, time: float
    ) -> None:
        """After a round that began at `time` from `state`: keep what those in flight train from,
        and drop the rest."""
        states = {**self.states, version: state}
        self.states = {each.version: states[each.version] for each in in_flight}
        self._times = {each.number: self._times.get(each.number, time) for each in in_flight}

    def clear(self) -> None:
        """Nobody trains from an earlier state any more."""
        self.states, self._times = {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "states": {str(version): each.plain() for version, each in self.states.items()},
            "times": {str(start): time for start, time in self._times.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.states = {int(n): GlobalState.of(each) for n, each in state["states"].items()}
        self._times = {int(start): time for start, time in state["times"].items()}
