"""Krum (Blanchard et al., 2017): the update that is nearest to its nearest others is taken, or the
mean of several such.

Sent: all that is trained. Kept at the client: nothing. `byzantine` of at least 2 f + 3 clients may
send anything; a round of fewer leaves the state as it is. Differs from the paper: a LoRA's distance
is that of its product s B A, through r x r Grams, because distances of factors depend on their
gauge and can rank attackers first; the mean of several is of products too, cut to the rank. On
clients whose data differ it drops minorities: `GlobalState.included` says who was taken.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from lamina.federation.aggregators.base import Aggregator, Weighting, averaged, refuse_weights
from lamina.federation.algebra.products import refactored, stack_of
from lamina.federation.algebra.robust import krum_scores, update_distances
from lamina.federation.state import GlobalState
from lamina.federation.update import ClientUpdate, Tensors, modules_of
from lamina.registry import InputError


@dataclass(frozen=True)
class Krum(Aggregator):
    """argmin_i of the sum of the n - f - 2 smallest ||D_i - D_j||^2, D = s B A."""

    weighting: Weighting = "equal"
    """Krum counts clients."""
    byzantine: int = 1
    """f, how many clients of a round may lie."""
    selected: int = 1
    """m, how many of the best are averaged (multi-Krum)."""

    robust: ClassVar[bool] = True
    refactorises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        refuse_weights(self)
        if self.byzantine < 0:
            raise InputError(f"aggregator.byzantine: {self.byzantine} is negative")
        if not 1 <= self.selected <= self.byzantine + 3:
            raise InputError(
                f"aggregator.selected: {self.selected} is not in [1, byzantine + 3]: of the "
                f"{self.fewest} clients that a round has at least, no more are surely honest"
            )

    @property
    def fewest(self) -> int:
        """2 f + 3, the fewest clients of which it can tell."""
        return 2 * self.byzantine + 3

    def combine(self, state: GlobalState, updates: Sequence[ClientUpdate]) -> GlobalState:
        """Score, select, and where several are selected average their products."""
        if len(updates) < self.fewest:
            return replace(state, included=())
        sent = [update.tensors for update in updates]
        scores = krum_scores(update_distances(state, sent), self.byzantine)
        best = sorted(torch.argsort(scores, stable=True)[: self.selected].tolist())
        included = tuple(updates[index].client for index in best)
        return replace(self._taken(state, [sent[index] for index in best]), included=included)

    def _taken(self, state: GlobalState, sent: Sequence[Tensors]) -> GlobalState:
        weights = [1.0] * len(sent)
        tensors = {**state.tensors, **averaged(sent, weights, state.tensors)}
        if len(sent) > 1:
            for module in modules_of({name for each in sent for name in each}):
                whole = stack_of(sent, weights, module, state.scaling)
                tensors.update(refactored(tensors, module, whole, state.scaling))
        return replace(state, tensors=tensors)
