"""Routing: the rows of one batch are answered by different modules."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from lamina.core import IGNORED


def answered_by(
    chosen: Tensor,
    inputs: Mapping[str, Tensor],
    answer: Callable[[int, Mapping[str, Tensor]], Tensor],
) -> Tensor:
    """The answers of each row's own module, int64 [N], in the order of the rows [N, ...].
    `answer(module, inputs)` [n, ...] is called once for each module that is chosen, on its rows
    only. Where answers are tokens [n, A, V], shorter ones are padded with zeros, which do not
    count."""
    answers, order = _each(chosen, inputs, answer)
    if answers[0].dim() == 3:
        longest = max(each.shape[1] for each in answers)
        answers = [F.pad(each, (0, 0, 0, longest - each.shape[1])) for each in answers]
    return torch.cat(answers)[order]


def said_by(
    chosen: Tensor,
    inputs: Mapping[str, Tensor],
    say: Callable[[int, Mapping[str, Tensor]], Tensor],
) -> Tensor:
    """As `answered_by`, for generated tokens, int64 [n, L] of each module. Shorter ones are padded
    with IGNORED."""
    answers, order = _each(chosen, inputs, say)
    longest = max(each.shape[1] for each in answers)
    padded = [F.pad(each, (0, longest - each.shape[1]), value=IGNORED) for each in answers]
    return torch.cat(padded)[order]


def _each(
    chosen: Tensor,
    inputs: Mapping[str, Tensor],
    answer: Callable[[int, Mapping[str, Tensor]], Tensor],
) -> tuple[list[Tensor], Tensor]:
    """The answers of each module to its own rows, and the order that puts all rows back."""
    modules = chosen.unique().tolist()
    rows = [(chosen == module).nonzero()[:, 0] for module in modules]
    answers = [
        answer(module, {name: value[own] for name, value in inputs.items()})
        for module, own in zip(modules, rows, strict=True)
    ]
    return answers, torch.cat(rows).argsort()


def among(logits: Tensor, classes: Sequence[int], num_classes: int) -> Tensor:
    """Logits [N, len(classes)] of a head for these classes alone, as logits [N, num_classes]; minus
    infinity for other classes."""
    spread = logits.new_full((len(logits), num_classes), float("-inf"))
    spread[:, list(classes)] = logits
    return spread
