"""Rows of one batch answered by different modules."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def answered_by(
    chosen: Tensor,
    inputs: Mapping[str, Tensor],
    answer: Callable[[int, Mapping[str, Tensor]], Tensor],
) -> Tensor:
    """`answer(module, inputs)` [n, ...] of each row's own module, int64 [N], put back in order [N,
    ...]: one call for each module that is chosen, on its rows only. Of tokens [n, A, V] the shorter
    answers get zeros behind them, where nothing counts."""
    modules = chosen.unique().tolist()
    rows = [(chosen == module).nonzero()[:, 0] for module in modules]
    answers = [
        answer(module, {name: value[own] for name, value in inputs.items()})
        for module, own in zip(modules, rows, strict=True)
    ]
    if answers[0].dim() == 3:
        longest = max(each.shape[1] for each in answers)
        answers = [F.pad(each, (0, 0, 0, longest - each.shape[1])) for each in answers]
    return torch.cat(answers)[torch.cat(rows).argsort()]


def among(logits: Tensor, classes: Sequence[int], num_classes: int) -> Tensor:
    """Logits [N, len(classes)] of a head that knows these classes alone as [N, num_classes]; others
    are impossible."""
    spread = logits.new_full((len(logits), num_classes), float("-inf"))
    spread[:, list(classes)] = logits
    return spread
