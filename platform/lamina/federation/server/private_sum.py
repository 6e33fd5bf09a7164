"""Rounds in which the server sees a sum of updates only, or releases it with noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lamina.federation.aggregators.base import Aggregator, LinearAggregator
from lamina.federation.privacy.accounting import Accountant
from lamina.federation.privacy.client_level import ClientPrivacy, clipped, difference, noisy_mean
from lamina.federation.privacy.combine import Stage, Summed, sum_of
from lamina.federation.privacy.settings import PrivacySettings
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate
from lamina.registry import InputError


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
        clip = None if self.privacy is None else self.privacy.clip
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
