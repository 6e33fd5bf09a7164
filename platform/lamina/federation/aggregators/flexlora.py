"""FlexLoRA (Bai et al., 2024): the weighted sum of the clients' updates is cut to a low rank,
and every client gets as much of it as its own rank holds.

Sent: all that is trained. Kept at the client: nothing. Ranks may differ. B = U S and A = V^T, so
that a direction of singular value zero can still be learned; how the paper splits S, we did not
see. Differs from the paper: the SVD is of the stacked factors (QR and a small SVD), unless they are
larger than the matrix; and by default a rank slice is weighted by the clients that have it, against
rank collapse (raFLoRA, Wu et al., 2026), as a client of rank 2 says nothing of the third term.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from lamina.federation.aggregators.base import Aggregator, averaged
from lamina.federation.algebra.lowrank import sliced
from lamina.federation.algebra.products import refactored, stack_of
from lamina.federation.state import GlobalState
from lamina.federation.update import LORA_A, LORA_B, ClientUpdate, Tensors, modules_of


@dataclass(frozen=True)
class FlexLoRA(Aggregator):
    """s B A = the nearest matrix of the global rank to sum w_i s_i B_i A_i."""

    by_slice: bool = True
    """Whether the weights of each rank slice are of those clients that have it. False as in the
    paper, where the terms beyond the smallest rank fade from round to round."""

    mixed_ranks: ClassVar[bool] = True
    refactorises: ClassVar[bool] = True
    needs_lora: ClassVar[bool] = True

    def starting_tensors(
        self,
        state: GlobalState,
        own: Tensors | None = None,
        rank: int | None = None,
        task_key: str | None = None,
    ) -> dict[str, Tensor]:
        """The leading terms, as many as the client's `rank`, under the scale of that rank."""
        tensors = state.tensors if rank is None else sliced(state.tensors, rank, state.scaling)
        return {**tensors, **(own or {})}

    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """Stack, cut, and average what is no LoRA factor."""
        weights = [self.weight(update) for update in updates]
        products = [update.tensors for update in updates]
        modules = modules_of({name for each in products for name in each})
        factors = {module + factor for module in modules for factor in (LORA_A, LORA_B)}
        tensors = {**state.tensors, **averaged(products, weights, state.tensors, without=factors)}
        for module in modules:
            whole = stack_of(products, weights, module, state.scaling, by_slice=self.by_slice)
            tensors.update(refactored(tensors, module, whole, state.scaling))
        return replace(state, tensors=tensors)
