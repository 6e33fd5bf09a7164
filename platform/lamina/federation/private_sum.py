"""Rounds in which the server sees a sum of updates only, or releases it with noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lamina.federation.aggregators.base import Aggregator, LinearAggregator
from lamina.federation.privacy.accounting import Accountant
from lamina.federation.privacy.client_level import ClientPrivacy, clipped, difference, noisy_mean
from lamina.federation.privacy.combine import SecureSum, Stage, Summed, sum_of
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate
from lamina.registry import InputError


@dataclass(frozen=True)
class PrivacySettings:
    """What may be learned of a client from what it sends and from what is released."""

    clip: float | None = None
    """C: a client's whole update is scaled down to this norm, and the sum of all is released with
    noise (DP-FedAvg); null: no noise."""
    noise_multiplier: float = 1.0
    """z: the noise on the sum has the standard deviation z C."""
    delta: float = 1e-5
    """The probability with which epsilon may fail to hold."""
    max_epsilon: float | None = None
    """The budget of the whole run, by clients; null: epsilon is only counted."""
    secure_sum: Literal["off", "ideal", "real"] = "off"
    """`real`: updates are masked and only their sum can be read. `ideal`: the same sum to the bit,
    without the cryptography."""
    limit: float = 1.0
    """Each number of an update is clipped to [-limit, limit] before it is masked."""
    bits: int = 16
    """How many bits it keeps."""
    threshold: float = 2 / 3
    """The share of a round's clients that must stay for a secure sum."""

    def __post_init__(self) -> None:
        try:
            _ = self.sum
            self.of_clients(1.0, 1)
            Accountant(self.delta, self.max_epsilon)
        except InputError as error:
            raise InputError(str(error).replace("privacy.", "federation.privacy.", 1)) from error

    @property
    def sum(self) -> SecureSum:
        """How updates are added up."""
        return SecureSum(self.secure_sum, self.limit, self.bits, self.threshold)

    def of_clients(self, sampling_rate: float, num_clients: int) -> ClientPrivacy | None:
        """Client-level privacy; None without a clip."""
        if self.clip is None:
            return None
        return ClientPrivacy(self.clip, self.noise_multiplier, sampling_rate, num_clients)


@dataclass(frozen=True)
class PrivateSum:
    """How a run combines updates without looking at one of them."""

    settings: PrivacySettings
    privacy: ClientPrivacy | None
    poisson: bool
    """Whether clients really are sampled independently, so that sampling amplifies."""
    seed: int

    def check_budget(self, accountant: Accountant, rounds: int) -> None:
        """Raises InputError where so many rounds do not fit into the budget."""
        if self.privacy is None or accountant.max_epsilon is None:
            return
        would_be = accountant.epsilon(self.privacy.release(poisson=self.poisson), rounds)
        if would_be > accountant.max_epsilon:
            raise InputError(
                f"federation.privacy.max_epsilon: {rounds} rounds cost epsilon {would_be:.4g}, "
                f"more than {accountant.max_epsilon:.4g} (allowed: more noise, fewer rounds, "
                "Poisson sampling, or a larger budget)"
            )

    def combine(
        self,
        state: GlobalState,
        updates: Sequence[ClientUpdate],
        lost: Sequence[str],
        round: int,
        accountant: Accountant,
    ) -> tuple[GlobalState, Summed]:
        """The state after a round of these updates; `lost` are clients whose upload did not come.

        Raises BudgetError before anything would be released that the budget does not cover, and
        SumAbortedError where too few clients stayed.
        """
        clip = self.settings.clip
        changes = {}
        for update in updates:
            change = difference(update.tensors, state.tensors)
            changes[update.client] = change if clip is None else clipped(change, clip)
        stages: Mapping[str, Stage] = dict.fromkeys(lost, "masked")
        clients = sorted({*changes, *lost})
        # What is to be released is paid for first.
        if self.privacy is not None:
            accountant.spend(self.privacy.release(poisson=self.poisson))
        summed = sum_of(clients, changes, self.settings.sum, self.seed, round, stages)
        if self.privacy is None:
            moved = {name: value / len(summed.clients) for name, value in summed.total.items()}
        else:
            bound = None
            if self.settings.secure_sum != "off":
                size = sum(value.numel() for value in summed.total.values())
                bound = self.settings.sum.quantiser.sensitivity(self.privacy.clip, size)
            moved = noisy_mean(summed.total, self.privacy, self.seed, round, bound)
        tensors = {
            name: (state.tensors[name].double() + change).to(state.tensors[name].dtype)
            for name, change in moved.items()
        }
        after = replace(state, tensors={**state.tensors, **tensors}, included=summed.clients)
        return after, summed


def is_plain_mean(aggregator: Aggregator) -> bool:
    """Whether an aggregator does nothing with updates but to average what was sent."""
    if not isinstance(aggregator, LinearAggregator):
        return False
    cls = type(aggregator)
    return cls.share is LinearAggregator.share and cls.finish is LinearAggregator.finish
