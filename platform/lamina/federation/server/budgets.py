"""What privacy has cost so far, and whether the budget covers more."""

from collections.abc import Iterable, Mapping
from typing import Any

from lamina.federation.privacy.accounting import Accountant
from lamina.federation.privacy.row_accounts import RowAccounts
from lamina.federation.server.run_settings import RunSettings
from lamina.streams.manifest import Delivery


class Budgets:
    """The privacy accounts of a run: one for all clients alike, or one for each client's rows.

    Which of the two counts is a setting (`federation.privacy.unit`). Without privacy neither does,
    and every question here is answered with yes.
    """

    def __init__(self, settings: RunSettings) -> None:
        """Raises InputError where the budget does not cover the run's rounds, or where it covers
        no client's first one."""
        self.of_clients = Accountant(1e-5)
        self._counts_clients = False
        if settings.private is not None:
            privacy = settings.private.settings
            self.of_clients = Accountant(privacy.delta, privacy.max_epsilon)
            self._counts_clients = settings.private.privacy is not None
            settings.private.check_budget(self.of_clients, settings.num_rounds)
        self.of_rows: RowAccounts | None = None
        if settings.row_privacy is not None:
            self.of_rows = RowAccounts(
                settings.row_privacy, settings.manifest, settings.num_steps, settings.batch_size
            )
            self.of_rows.require_one_round()

    @property
    def epsilon(self) -> float | None:
        """Epsilon spent so far: of each client, or of each of its rows. None where nothing is
        counted."""
        if self.of_rows is not None:
            return self.of_rows.epsilon()
        return self.of_clients.epsilon() if self._counts_clients else None

    def covers_round(self, delivery: Delivery) -> bool:
        """Whether the rows of a client's delivery may be trained on for another round."""
        rows = self.of_rows
        return rows is None or rows.covers(delivery, rows.of_round(delivery))

    def covers_sums(self, deliveries: Iterable[Delivery]) -> bool:
        """Whether sums over the rows of these deliveries may leave their client."""
        rows = self.of_rows
        return rows is None or all(rows.covers(delivery, rows.of_sums()) for delivery in deliveries)

    def spend_round(self, deliveries: Iterable[Delivery]) -> None:
        """Record what a round costs the rows of each of these deliveries."""
        if self.of_rows is not None:
            for delivery in deliveries:
                self.of_rows.spend(delivery, self.of_rows.of_round(delivery))

    def spend_sums(self, deliveries: Iterable[Delivery]) -> None:
        """Record what sums over them cost the rows of each of these deliveries."""
        if self.of_rows is not None:
            for delivery in deliveries:
                self.of_rows.spend(delivery, self.of_rows.of_sums())

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        rows = None if self.of_rows is None else self.of_rows.state_dict()
        return {"of_clients": self.of_clients.state_dict(), "of_rows": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.of_clients = Accountant.from_state(state["of_clients"])
        if self.of_rows is not None:
            self.of_rows.load_state_dict(state["of_rows"])
