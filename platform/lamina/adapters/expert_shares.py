"""The gates of a mixture of LoRAs: how much each expert contributed to a row."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from lamina.adapters.kinds.lora_mixture import GATE, gate_shares, gated_modules
from lamina.adapters.model import MAIN, AdaptedModel, Output
from lamina.backbones.overlay import Overlay, Site


@dataclass(frozen=True)
class ShareReader:
    """A patch that changes nothing. It passes the sums of g(x) over a row's tokens, [N, experts],
    to `seen`."""

    seen: dict[str, Tensor]
    name: str
    gate: Tensor
    mask: Tensor | None
    """1 where a token is no padding, [N, S]; None where none is."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        shares = gate_shares(x, self.gate)
        if self.mask is not None:
            shares = shares * self.mask[:, :, None].to(shares.dtype)
        self.seen[self.name] = shares.sum(dim=1)
        return y


def with_shares(
    model: AdaptedModel, inputs: Mapping[str, Tensor]
) -> tuple[Output, dict[str, Tensor]]:
    """The output for N inputs; and, for every module of its mixture, how much each expert
    contributed to a row: the sum of g over its tokens, [N, experts]."""
    seen: dict[str, Tensor] = {}
    tensors = model.adapters[MAIN].tensors
    readers = {}
    for module in gated_modules(tensors):
        gate, mask = tensors[module + GATE], model.mask_of(inputs, module)
        readers[Site(module, module)] = [ShareReader(seen, module, gate, mask)]
    return model.under(inputs, model.overlay() | Overlay(patches=readers)), seen
