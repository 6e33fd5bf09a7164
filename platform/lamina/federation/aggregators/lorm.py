"""LoRM (Salami et al., 2025): rounds alternate as in RoLoRA, and the factor of the round is merged
in closed form, such that on the clients' own inputs it does what theirs did.

Sent: the factor of the round, whatever is no LoRA factor, and per module the Gram matrix sum x x^T
[d_in, d_in] of the rows' inputs. Kept at the client: nothing. Sums are enough, and rows are counted
by the Grams themselves. A Gram matrix says much of a client's inputs: no privacy is claimed.
Differs from the authors' code: what is solved for is the change since the round began, which is the
same in the span of the inputs and leaves the global factor alone outside it, where their
pseudo-inverse sets it to zero.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lamina.federation.aggregators.base import LinearAggregator, Sums, mean_of, mean_share
from lamina.federation.state import GlobalState
from lamina.federation.update import LORA_A, LORA_B, ClientUpdate, Tensors, gram_name, modules_of


@dataclass(frozen=True)
class LoRM(LinearAggregator):
    """A += (sum (A_i - A) G_i) (sum G_i)^+ in odd rounds, B += (sum (B_i - B) A G_i A^T)
    (A sum G_i A^T)^+ in even ones, with G_i = X_i^T X_i."""

    phases: ClassVar[tuple[str, ...]] = ("b", "a")
    needs_lora: ClassVar[bool] = True
    needs_grams: ClassVar[bool] = True

    def share(self, state: GlobalState, update: ClientUpdate) -> Sums:
        """(x_i - x) G of every factor and G itself, as the factor sees it; the weighted mean's
        share of the rest."""
        merged = _factors(state, update.tensors)
        others = {name: t for name, t in update.tensors.items() if name not in merged}
        sums = mean_share(others, self.weight(update))
        for name, module in merged.items():
            gram = update.summaries[gram_name(module)].double()
            if name.endswith(LORA_B):
                a = state.tensors[module + LORA_A].double()
                gram = a @ gram @ a.T
            change = update.tensors[name].double() - state.tensors[name].double()
            sums[f"change:{name}"], sums[f"gram:{name}"] = change @ gram, gram
        return sums

    def finish(self, state: GlobalState, sums: Sums) -> GlobalState:
        """Solve."""
        tensors = {**state.tensors, **mean_of(sums, state.tensors)}
        for name, change in sums.items():
            if name.startswith("change:"):
                name = name.removeprefix("change:")
                tensors[name] = _solved(tensors[name], change, sums[f"gram:{name}"])
        return replace(state, tensors=tensors)


def _factors(state: GlobalState, tensors: Tensors) -> dict[str, str]:
    """The names of LoRA factors among the names of tensors, with their module."""
    names = (
        (module + factor, module)
        for module in modules_of(state.tensors)
        for factor in (LORA_A, LORA_B)
    )
    return {name: module for name, module in names if name in tensors}


def _solved(before: Tensor, change: Tensor, gram: Tensor) -> Tensor:
    inverse = torch.linalg.pinv(gram, hermitian=True)
    return (before.double() + change @ inverse).to(before.dtype)
