"""Privacy accounts of the rows of each client, under example-level privacy."""

from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any

from lamina.federation.privacy.accounting import Accountant, Release
from lamina.federation.privacy.settings import PrivacySettings
from lamina.registry import InputError
from lamina.streams.manifest import Delivery, StreamManifest

Cost = tuple[Release | None, int]
"""A release and how often it happens; None where nothing is released."""
_Key = tuple[int, float]
"""A client, and the time of the delivery whose rows are at stake."""


class RowAccounts:
    """An account for the rows of each delivery of each client.

    Steps on the rows of one delivery tell nothing of the rows of another, so what an epsilon bounds
    is the dearest delivery of the dearest client, however long the stream is (parallel composition,
    McSherry, 2009). Where a client gets a row again in a later delivery, its deliveries have one
    account together. What a client's neighbours know of the same row is theirs: rows belong to one
    client.

    An upload that never arrived was seen by nobody and costs nothing; one that came too late or was
    refused was seen.
    """

    def __init__(
        self,
        settings: PrivacySettings,
        manifest: StreamManifest,
        num_steps: Callable[[int], int],
        batch_size: int,
    ) -> None:
        """`num_steps` maps a number of rows to a client's steps in a round."""
        self._settings = settings
        self._manifest = manifest
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._accounts: dict[_Key, Accountant] = {}
        self._shared: dict[int, bool] = {}

    def require_one_round(self) -> None:
        """Raises InputError where no client may take part in even one round."""
        deliveries = [
            each for n in range(len(self._manifest)) for each in self._manifest.deliveries(n)[:1]
        ]
        if deliveries and not any(self.covers(each, self.of_round(each)) for each in deliveries):
            least = min(self._account(each).epsilon(*self.of_round(each)) for each in deliveries)
            raise InputError(
                f"federation.privacy.max_epsilon: one round costs epsilon {least:.4g} or more, and "
                f"{self._settings.max_epsilon:.4g} are allowed (allowed: more noise, fewer local "
                "steps, or a larger budget)"
            )

    def of_round(self, delivery: Delivery) -> Cost:
        """The cost of a round for the rows of a delivery. Empty where its steps have no noise,
        which is where no steps are taken."""
        num_rows = len(delivery.rows)
        privacy = self._settings.of_rows(num_rows, self._batch_size)
        return (None, 0) if privacy is None else (privacy.release, self._num_steps(num_rows))

    def of_sums(self) -> Cost:
        """The cost for rows whose sums leave the client."""
        rule = self._settings.summaries
        return (None if rule is None else rule.release), 1

    def covers(self, delivery: Delivery, cost: Cost) -> bool:
        """Whether what is left of the budget of a delivery's rows covers a cost."""
        most = self._settings.max_epsilon
        return most is None or self._account(delivery).epsilon(*cost) <= most

    def spend(self, delivery: Delivery, cost: Cost) -> None:
        """Record a cost of the rows of a delivery.

        Raises BudgetError, and records nothing, where it is not covered.
        """
        release, times = cost
        if release is not None:
            account = self._account(delivery)
            account.spend(release, times)
            self._accounts[self._key(delivery)] = account

    def epsilon(self) -> float:
        """The largest over clients and deliveries."""
        return max((each.epsilon() for each in self._dearest(self._accounts.values())), default=0.0)

    def by_client(self) -> dict[int, float]:
        """The largest epsilon over the deliveries of each client that has sent something."""
        found: dict[int, float] = {}
        for client in sorted({client for client, _ in self._accounts}):
            own = [each for (number, _), each in self._accounts.items() if number == client]
            found[client] = max(each.epsilon() for each in self._dearest(own))
        return found

    def state_dict(self) -> list[Any]:
        """Plain JSON."""
        return [
            {"client": client, "time": time, "account": account.state_dict()}
            for (client, time), account in sorted(self._accounts.items())
        ]

    def load_state_dict(self, state: Iterable[Mapping[str, Any]]) -> None:
        """Take over what `state_dict` gave."""
        self._accounts = {
            (each["client"], each["time"]): Accountant.from_state(each["account"]) for each in state
        }

    def _account(self, delivery: Delivery) -> Accountant:
        settings = self._settings
        return self._accounts.get(
            self._key(delivery), Accountant(settings.delta, settings.max_epsilon)
        )

    def _key(self, delivery: Delivery) -> _Key:
        return delivery.client, 0.0 if self._repeats(delivery.client) else delivery.time

    def _repeats(self, client: int) -> bool:
        """Whether a client gets some row twice."""
        if client not in self._shared:
            rows = [row for each in self._manifest.deliveries(client) for row in each.rows.tolist()]
            self._shared[client] = len(set(rows)) < len(rows)
        return self._shared[client]

    @staticmethod
    def _dearest(accounts: Iterable[Accountant]) -> list[Accountant]:
        """Those that may be the dearest: one is not if another released all that it did, at least
        as often and with rows at least as likely."""
        kept: list[Accountant] = []
        for each in accounts:
            if any(_at_least(other, each) for other in kept):
                continue
            kept = [other for other in kept if not _at_least(each, other)] + [each]
        return kept


def _at_least(dear: Accountant, cheap: Accountant) -> bool:
    """Whether against each kind of release of one there is one of the other that tells as much."""
    pairs = list(
        zip_longest(sorted(dear.releases.items()), sorted(cheap.releases.items()), fillvalue=None)
    )
    return all(
        high is not None
        and (
            low is None
            or (
                high[0].noise_multiplier <= low[0].noise_multiplier
                and high[0].sampling_rate >= low[0].sampling_rate
                and high[1] >= low[1]
            )
        )
        for high, low in pairs
    )
