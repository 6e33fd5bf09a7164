"""Handwritten digits that scikit-learn ships: 1,797 images of 8 x 8; tasks are pairs of digits."""

from dataclasses import dataclass

import torch

from lamina.core import Modality
from lamina.streams.base import Source, Table, demo_module

_BRIGHTEST = 16


@dataclass(frozen=True)
class Digits(Source):
    """The digits 0 to 9 as grey uint8 images [8, 8, 3], in the groups 0-1, 2-3, 4-5, 6-7 and 8-9.

    The test set of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits" (UCI, 1998).
    """

    @property
    def modality(self) -> Modality:
        """Images."""
        return "image"

    def load(self, seed: int) -> Table:
        """All rows in scikit-learn's order, whatever the seed."""
        data = demo_module("sklearn.datasets", self.name).load_digits()
        grey = torch.from_numpy(data.images * (255 / _BRIGHTEST)).round().to(torch.uint8)
        digits: list[int] = data.target.tolist()
        return Table(
            modality=self.modality,
            values=list(grey[..., None].expand(-1, -1, -1, 3).contiguous()),
            labels=[str(digit) for digit in digits],
            classes=[str(digit) for digit in range(10)],
            groups=[f"{2 * pair}-{2 * pair + 1}" for pair in (digit // 2 for digit in digits)],
        )
