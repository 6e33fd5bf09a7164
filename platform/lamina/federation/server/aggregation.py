"""From the updates of a round to the next global state."""

from collections.abc import Sequence
from dataclasses import replace

from lamina.federation.algebra.control_variates import shared_control
from lamina.federation.privacy.accounting import Accountant
from lamina.federation.privacy.combine import Summed
from lamina.federation.server.run_settings import RunSettings
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate


def aggregated(
    settings: RunSettings,
    state: GlobalState,
    updates: Sequence[ClientUpdate],
    version: int,
    lost: Sequence[str],
    accountant: Accountant,
) -> tuple[GlobalState, Summed | None]:
    """The state after round `version`, and how the updates were summed where that was private.

    First the aggregator or the private sum, then control variates (SCAFFOLD), then the server
    optimiser. It is the same object as `state` where nothing came of the updates. `lost` are the
    clients whose upload did not come through.

    Raises BudgetError where `accountant` does not cover the release, and SumAbortedError where too
    few clients stayed.
    """
    summed = None
    if settings.private is None:
        after = settings.aggregator.aggregate(state, updates)
    else:
        after, summed = settings.private.combine(state, updates, lost, version, accountant)
    if settings.controls and updates:
        controls = shared_control(state.controls, updates, len(settings.manifest))
        after = replace(after, controls=controls)
    if settings.optimiser is not None and after is not state:
        after = settings.optimiser.apply(state, after)
    return after, summed
