"""FedIT (Zhang et al., 2024): every tensor, both LoRA factors among them, is averaged by weight
(FedAvg, McMahan et al., 2017).

Sent: all that is trained. Kept at the client: nothing. The mean of products is not the product of
means, so the global update is not the mean of the clients' updates: the lower bound that the others
are measured against. A tensor that not all clients sent (a task's own adapter, the head's rows of
later classes) is averaged over those that did.
"""

from dataclasses import dataclass

from lamina.federation.aggregators.base import LinearAggregator


@dataclass(frozen=True)
class FedIT(LinearAggregator):
    """x = sum w_i x_i / sum w_i, tensor by tensor."""
