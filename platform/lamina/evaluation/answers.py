"""Predictions for rows: classes, or answers in tokens. Every tensor is on the CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Answers:
    """The classes that were predicted of N rows."""

    labels: Tensor
    """int64 [N]: the true classes."""
    predicted: Tensor
    """int64 [N], the class with the best logit."""
    place: Tensor
    """int64 [N]: the place of the true class among all, from 0, which is the number of classes with
    a better logit. Where the head does not know the true class, it is the number of all classes."""
    finite: Tensor
    """bool [N]: whether the best logit is a finite number. (Classes that are ruled out are minus
    infinity, which is fine.)"""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def right(self) -> Tensor:
        """bool [N]; a row whose logits are not finite is wrong."""
        return (self.predicted == self.labels) & self.finite

    def plain(self) -> Tensor:
        """The four fields as one tensor, int32 [4, N], for a checkpoint."""
        columns = [self.labels, self.predicted, self.place, self.finite]
        return torch.stack([each.int() for each in columns])

    @staticmethod
    def of_plain(columns: Tensor) -> "Answers":
        """What `plain` gave."""
        labels, predicted, place, finite = columns.long()
        return Answers(labels, predicted, place, finite.bool())

    def split(self, sizes: Sequence[int]) -> list["Answers"]:
        """Of consecutive rows, so many each."""
        return [Answers.of_plain(each) for each in self.plain().split(list(sizes), dim=1)]


@dataclass(frozen=True)
class TokenAnswers:
    """How well the model predicts each token of the right answers of N rows, given the tokens
    before it; and the generated answers, where a measure reads them."""

    num_tokens: Tensor
    """int64 [N], of the right answer, its end token among them."""
    num_right: Tensor
    """int64 [N]: how many of these tokens are the likeliest when all before them are given. If all
    are, greedy decoding gives exactly the right answer."""
    surprise: Tensor
    """float64 [N], -log p(answer | prompt) in nats, the sum over its tokens."""
    finite: Tensor
    """bool [N], whether the best logit of every token is a finite number."""
    said: tuple[str, ...] | None = None
    """The N answers of greedy decoding; None where nobody reads them."""
    wanted: tuple[str, ...] | None = None
    """The N right answers, with `said`."""

    def __len__(self) -> int:
        return len(self.num_tokens)

    @property
    def right(self) -> Tensor:
        """bool [N]: which answers match exactly."""
        return (self.num_right == self.num_tokens) & self.finite

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The generated and the right answer of each row."""
        return list(zip(self.said or (), self.wanted or (), strict=True))

    def plain(self) -> dict[str, Any]:
        """The fields as a tensor float64 [4, N] and lists, for a checkpoint."""
        columns = [self.num_tokens, self.num_right, self.surprise, self.finite]
        texts = {"said": self.said, "wanted": self.wanted}
        return {
            "columns": torch.stack([each.double() for each in columns]),
            **{key: list(each) for key, each in texts.items() if each is not None},
        }

    @staticmethod
    def of_plain(plain: Mapping[str, Any]) -> "TokenAnswers":
        """What `plain` gave."""
        number, right, surprise, finite = plain["columns"]
        said, wanted = (tuple(plain[key]) if key in plain else None for key in ("said", "wanted"))
        return TokenAnswers(number.long(), right.long(), surprise, finite.bool(), said, wanted)

    def split(self, sizes: Sequence[int]) -> list["TokenAnswers"]:
        """Of consecutive rows, so many each."""
        plain, found, start = self.plain(), [], 0
        for size in sizes:
            rows = slice(start, start := start + size)
            own = {key: each[rows] for key, each in plain.items() if key != "columns"}
            found.append(TokenAnswers.of_plain({"columns": plain["columns"][:, rows], **own}))
        return found


AnyAnswers = Answers | TokenAnswers


def of_plain(plain: Any) -> AnyAnswers:
    """What `plain` of either gave."""
    return Answers.of_plain(plain) if isinstance(plain, Tensor) else TokenAnswers.of_plain(plain)
