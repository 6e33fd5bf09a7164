"""The section `federation.privacy` of a job."""

import math
from dataclasses import dataclass
from typing import Literal

from lamina.federation.privacy.accounting import Accountant
from lamina.federation.privacy.client_level import ClientPrivacy
from lamina.federation.privacy.combine import SecureSum
from lamina.federation.privacy.example_level import ExamplePrivacy
from lamina.federation.privacy.released import ReleaseRule
from lamina.registry import InputError

LEAST_NOISE = 0.1
"""The least noise multiplier of which an epsilon is counted."""


@dataclass(frozen=True)
class PrivacySettings:
    """What may be learned of a client from what it sends and from what is released."""

    unit: Literal["client", "example"] = "client"
    """What the noise hides. `client`: that a client took part at all; the server puts noise on the
    sum of the updates (DP-FedAvg), and is trusted to see it without. `example`: that a row is among
    a client's; the client puts noise on each of its steps (DP-SGD), and need trust nobody. How many
    rows a client has, and who takes part, is not hidden; nor is what evaluation says of other
    rows than those that are trained on."""
    clip: float | None = None
    """C, the largest norm of what a unit adds: of a client's whole update, or of a row's gradient
    in a step; null: no noise."""
    noise_multiplier: float = 1.0
    """z: the noise on the sum has the standard deviation z C. At least 0.1, of which a single
    release without sampling costs an epsilon of 90."""
    delta: float = 1e-5
    """The probability with which epsilon may fail to hold."""
    max_epsilon: float | None = None
    """The budget of the whole run; null: epsilon is only counted. By client: a job whose rounds
    would cost more is refused. By example: each client has it for each of its rows, and is asked no
    more when its next round would cost more than is left."""
    secure_sum: Literal["off", "ideal", "real"] = "off"
    """`real`: updates are masked and only their sum can be read. `ideal`: the same sum to the bit,
    without the cryptography."""
    limit: float = 1.0
    """Each number of an update is clipped to [-limit, limit] before it is masked."""
    bits: int = 16
    """How many bits it keeps."""
    threshold: float = 2 / 3
    """The share of a round's clients that must stay for a secure sum."""
    summaries: ReleaseRule | None = None
    """When and how the sums over rows leave a client that a strategy asks for before or after a
    task; null: as they are."""

    def __post_init__(self) -> None:
        if self.unit == "client" and self.summaries is not None and self.summaries.release:
            raise InputError(
                "federation.privacy.summaries.noise_multiplier: it hides rows, and unit 'client' "
                "counts what clients have spent (allowed: 0, or federation.privacy.unit example)"
            )
        if self.clip is not None and not LEAST_NOISE <= self.noise_multiplier < math.inf:
            raise InputError(
                f"federation.privacy.noise_multiplier: {self.noise_multiplier} is not a number "
                f"from {LEAST_NOISE}; less hides nothing"
            )
        try:
            _ = self.sum, self.of_clients(1.0, 1), self.of_rows(1, 1)
            Accountant(self.delta, self.max_epsilon)
        except InputError as error:
            raise InputError(str(error).replace("privacy.", "federation.privacy.", 1)) from error

    @property
    def sum(self) -> SecureSum:
        """How updates are added up."""
        return SecureSum(self.secure_sum, self.limit, self.bits, self.threshold)

    @property
    def needs_sum(self) -> bool:
        """Whether updates go into a sum that the server does nothing with but to average it."""
        return self.secure_sum != "off" or self.of_clients(1.0, 1) is not None

    def of_clients(self, sampling_rate: float, num_clients: int) -> ClientPrivacy | None:
        """Client-level privacy; None without it."""
        if self.unit != "client" or self.clip is None:
            return None
        return ClientPrivacy(self.clip, self.noise_multiplier, sampling_rate, num_clients)

    def of_rows(self, num_rows: int, batch_size: int) -> ExamplePrivacy | None:
        """Example-level privacy of a client's steps, in which a batch is expected; None without
        it."""
        if self.unit != "example" or self.clip is None:
            return None
        rate = min(1.0, batch_size / num_rows)
        return ExamplePrivacy(self.clip, self.noise_multiplier, rate)
