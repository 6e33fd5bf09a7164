"""What a host is given when it starts."""

from dataclasses import dataclass

from lamina.config import HostSettings
from lamina.orchestration.store.client import StoreClient


@dataclass(frozen=True)
class HostSpec:
    """The specification of a host, which it gets when it starts. It travels to the worker."""

    name: str
    """Lasting: a host that died comes back under the same name and goes on with the same trial."""
    store: StoreClient
    use_gpu: bool
    hosts: HostSettings
    """The job's settings of hosts."""
    num_hosts: int
    """How many there are."""
    checkpoint_steps: int | None = None
    """After so many steps within a task each trial is kept; None: at the end of tasks only."""

    @property
    def threads(self) -> int:
        """CPU cores that each of its processes takes, and threads that torch uses there."""
        return self.hosts.threads

    @property
    def workers(self) -> int:
        """Processes that it is."""
        return self.hosts.workers_per_trial
