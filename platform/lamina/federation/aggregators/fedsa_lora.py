"""FedSA-LoRA (Guo et al., 2025): both factors are trained, A is averaged and B stays with its
client.

Sent: A and whatever is no LoRA factor. Kept at the client: B, from one of its rounds to the next; a
client that takes part seldom has an old one. There is no global B, so a client that never trained
starts from the first one (zero), and accuracy is a client's own.
"""

from dataclasses import dataclass
from typing import ClassVar

from lamina.federation.aggregators.base import LinearAggregator
from lamina.federation.update import LORA_B


@dataclass(frozen=True)
class FedSALoRA(LinearAggregator):
    """A = sum w_i A_i / sum w_i; B_i is client i's."""

    keeps_client_state: ClassVar[bool] = True
    needs_lora: ClassVar[bool] = True

    def keeps(self, name: str) -> bool:
        """B."""
        return name.endswith(LORA_B)
