"""FLoRA (Wang et al., 2024): the clients' LoRAs are stacked, which is their weighted sum exactly,
of equal or mixed ranks; then all start anew.

Sent: all that is trained. Kept at the client: nothing. Differs from the authors' code: the stack
goes into a frozen ledger beside the backbone instead of into the backbone; every update is read
with the scale of its own rank; and the new A is drawn on the server, the same for all clients.
Tensors that are no LoRA factors are averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from lamina.adapters.base import uniform
from lamina.core import generator_of
from lamina.federation.aggregators.base import Aggregator, averaged
from lamina.federation.algebra.lowrank import sliced
from lamina.federation.algebra.products import stack_of
from lamina.federation.algebra.residual_ledger import check_rank, entered
from lamina.federation.state import GlobalState
from lamina.federation.update import LORA_A, LORA_B, ClientUpdate, Tensors, modules_of


@dataclass(frozen=True)
class FLoRA(Aggregator):
    """Ledger += sum w_i s_i B_i A_i; then A anew as LoRA draws it, B = 0."""

    ledger_rank: int | None = None
    """The most that a module's ledger may have; what a smaller one leaves out is recorded. Default:
    all that a matrix of its shape can have, which loses nothing."""

    exact: ClassVar[bool] = True
    mixed_ranks: ClassVar[bool] = True
    changes_rank: ClassVar[bool] = True
    refactorises: ClassVar[bool] = True
    uses_ledger: ClassVar[bool] = True
    needs_lora: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rank(self.ledger_rank)

    def starting_tensors(
        self,
        state: GlobalState,
        own: Tensors | None = None,
        rank: int | None = None,
        task_key: str | None = None,
    ) -> dict[str, torch.Tensor]:
        """The new factors, their first `rank` rows for a client of a smaller one."""
        tensors = state.tensors if rank is None else sliced(state.tensors, rank, state.scaling)
        return {**tensors, **(own or {})}

    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """Stack, enter, restart."""
        weights = [self.weight(update) for update in updates]
        products = [update.tensors for update in updates]
        modules = modules_of({name for each in products for name in each})
        residuals = {
            module: stack_of(products, weights, module, state.scaling) for module in modules
        }
        factors = {module + factor for module in modules for factor in (LORA_A, LORA_B)}
        tensors = {**state.tensors, **averaged(products, weights, state.tensors, without=factors)}
        for module in modules:
            a = tensors[module + LORA_A]
            generator = generator_of(state.seed, "flora", updates[0].round, module)
            tensors[module + LORA_A] = uniform(tuple(a.shape), a.shape[1] ** -0.5, generator)
            tensors[module + LORA_B] = torch.zeros_like(tensors[module + LORA_B])
        return entered(replace(state, tensors=tensors), residuals, self.ledger_rank)
