"""What an update may hold: an allow-list of names, shapes and types, made by the server before a
round. Rows of data have no name on it, so they cannot leave."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.core import Summary
from lamina.federation.update import ClientUpdate, Tensors
from lamina.registry import InputError, unknown

_LARGEST = 2**53
"""No number may be larger: Python's have no end, and a long one can spell out a text."""


@dataclass(frozen=True)
class Slot:
    """A place for one tensor."""

    shape: tuple[int, ...]
    """This shape: nothing that grows with a client's rows."""
    dtype: torch.dtype
    """Exactly this type."""

    @staticmethod
    def of(tensor: Tensor) -> "Slot":
        """The place that such a tensor fits."""
        return Slot(tuple(tensor.shape), tensor.dtype)

    def fits(self, tensor: Tensor, num_classes: int) -> bool:
        """Whether a tensor may take this place; a dimension of `num_classes` may be shorter."""
        return (
            tensor.dtype == self.dtype
            and tensor.dim() == len(self.shape)
            and all(
                length == allowed or (allowed == num_classes and 0 < length < allowed)
                for length, allowed in zip(tensor.shape, self.shape, strict=True)
            )
        )


@dataclass(frozen=True)
class UpdateSchema:
    """The allow-list of a round."""

    tensors: Mapping[str, Slot]
    """What is trained and sent. All of it must be there."""
    summaries: Mapping[str, Slot]
    """The sums that the strategy declared. All of them must be there."""
    metrics: frozenset[str]
    """Names of the numbers that may come along."""
    clients: frozenset[str]
    """Who may send."""
    phases: frozenset[str]
    """What a round may train."""
    num_classes: int = 0
    """How many classes the streams have, where clients have not met them all: what has a dimension
    of that length (a head, sums per class) may be that much shorter, and never longer."""

    @staticmethod
    def of(
        tensors: Tensors,
        summaries: Tensors,
        clients: Collection[str],
        phases: Collection[str],
        metrics: Collection[str] = (),
        num_classes: int = 0,
    ) -> "UpdateSchema":
        """The schema of updates like these tensors (`AdaptedModel.parameters()`, or those of them
        that are sent) and sums (`declared_sums`), both with all classes."""
        return UpdateSchema(
            {name: Slot.of(value) for name, value in tensors.items()},
            {name: Slot.of(value) for name, value in summaries.items()},
            frozenset(metrics),
            frozenset(clients),
            frozenset(phases),
            num_classes,
        )

    def check(self, update: ClientUpdate) -> None:
        """Nothing but what is allowed is in an update, all that is needed is, and all of it is
        finite. Whether it belongs to this round is for the round to say.

        Raises InputError, naming what is wrong.
        """
        for key, text, allowed in (
            ("client", update.client, self.clients),
            ("phase", update.phase, self.phases),
        ):
            if not isinstance(text, str) or text not in allowed:
                raise unknown(f"update.{key}", text, allowed)
        if not _is_digest(update.base):
            raise InputError(f"update.base: {update.base!r} is not a sha256 in hexadecimal")
        for key, number in (("round", update.round), ("num_rows", update.num_rows)):
            if type(number) is not int or not 0 <= number <= _LARGEST:
                raise InputError(f"update.{key}: {number!r} is not a whole number from 0")
        _check_tensors("update.tensors", update.tensors, self.tensors, self.num_classes)
        _check_tensors("update.summaries", update.summaries, self.summaries, self.num_classes)
        for name, value in update.metrics.items():
            if name not in self.metrics:
                raise unknown("update.metrics", name, self.metrics)
            if type(value) not in (int, float) or not abs(value) <= _LARGEST:
                raise InputError(f"update.metrics: {name} is {value!r}, not a number up to 2^53")


def declared_sums(summary: Summary) -> Tensors:
    """The sums of a summary, which is all of it that may leave a client.

    Raises InputError for one that also keeps rows: what needs them cannot be federated.
    """
    if summary.rows:
        raise InputError(
            f"strategy: its summary keeps rows of the data ({', '.join(sorted(summary.rows))}), "
            "which may not leave a client"
        )
    return summary.sums


def _is_digest(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")


def _check_tensors(key: str, given: Tensors, slots: Mapping[str, Slot], num_classes: int) -> None:
    for name in given:
        if name not in slots:
            raise unknown(key, name, slots)
    for name, slot in slots.items():
        if name not in given:
            raise InputError(f"{key}: {name} is missing")
        value = given[name]
        if not isinstance(value, Tensor) or value.layout is not torch.strided:
            raise InputError(f"{key}: {name} is no (dense) tensor")
        if not slot.fits(value, num_classes):
            raise InputError(
                f"{key}: {name} is {tuple(value.shape)} of {value.dtype}, "
                f"not {slot.shape} of {slot.dtype}"
            )
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{key}: {name} has values that are not finite")
