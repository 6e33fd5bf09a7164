"""The work of clients, and of the server where it needs a backbone, as pure functions of what they
are given: nothing here remembers anything from call to call but what was looked up."""

from dataclasses import dataclass

from lamina.federation.client.boundaries import Boundaries
from lamina.federation.client.evaluation import LocalEvaluation
from lamina.federation.client.setup import ClientSetup
from lamina.federation.client.training import LocalTraining


@dataclass(frozen=True)
class ClientWork:
    """The three kinds of work that a run asks for."""

    boundaries: Boundaries
    """At task boundaries, and the sums over rows that they need."""
    training: LocalTraining
    """Rounds."""
    evaluation: LocalEvaluation
    """Evaluations."""

    @staticmethod
    def of(setup: ClientSetup) -> "ClientWork":
        """The work of a job's clients."""
        return ClientWork(Boundaries(setup), LocalTraining(setup), LocalEvaluation(setup))
