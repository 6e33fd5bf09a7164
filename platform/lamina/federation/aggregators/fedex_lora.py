"""FedEx-LoRA (Singhal et al., 2025): both factors are averaged as in FedIT, and what the product of
the means lacks of the mean of the products is kept as a residual.

Sent: all that is trained. Kept at the client: nothing. Differs from the authors' code: clients
count by their rows, not equally; the residual goes into a frozen ledger beside the backbone, as
factors, instead of into the backbone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from lamina.federation.aggregators.base import Aggregator, averaged
from lamina.federation.algebra.lowrank import factors_of, stacked
from lamina.federation.algebra.products import stack_of
from lamina.federation.algebra.residual_ledger import check_rank, entered
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate, modules_of


@dataclass(frozen=True)
class FedExLoRA(Aggregator):
    """B, A = means; ledger += sum w_i s B_i A_i - s B A, of rank at most (n + 1) r."""

    ledger_rank: int | None = None
    """The most that a module's ledger may have; what a smaller one leaves out is recorded. Default:
    all that a matrix of its shape can have, which loses nothing."""

    exact: ClassVar[bool] = True
    changes_rank: ClassVar[bool] = True
    uses_ledger: ClassVar[bool] = True
    needs_lora: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rank(self.ledger_rank)

    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """Average, and enter what the average lacks."""
        weights = [self.weight(update) for update in updates]
        products = [update.tensors for update in updates]
        tensors = {**state.tensors, **averaged(products, weights, state.tensors)}
        # The residual is measured against the means as they are stored, in float32: it then holds
        # their rounding too.
        residuals = {
            module: stacked(
                [
                    stack_of(products, weights, module, state.scaling),
                    factors_of(tensors, module, state.scaling, weight=-1.0),
                ]
            )
            for module in modules_of({name for each in products for name in each})
        }
        return entered(replace(state, tensors=tensors), residuals, self.ledger_rank)
