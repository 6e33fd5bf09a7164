"""The global state: the tensors that clients train together, and what belongs beside them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lamina.federation.update import Tensors, digest_of
from lamina.registry import InputError


@dataclass(frozen=True)
class Scaling:
    """What a LoRA of a rank multiplies B A with: alpha / rank^power."""

    alpha: float = 16.0
    """The job's `adapter.alpha`."""
    power: float = 1.0
    """1 as in LoRA; 0.5 as in rsLoRA; 0 where clients of every rank share one scale, as they do
    when one LoRA kind lays over tensors of several ranks."""

    def __post_init__(self) -> None:
        if self.power not in (0.0, 0.5, 1.0):
            raise InputError(f"scaling.power: {self.power} is not 0, 0.5 or 1")

    def __call__(self, rank: int) -> float:
        """s of a rank."""
        return float(self.alpha / rank**self.power)


@dataclass(frozen=True)
class GlobalState:
    """What a round starts from, and what it makes anew."""

    tensors: Tensors
    """By the names of `AdaptedModel.parameters()`; frozen LoRA factors that clients share too."""
    scaling: Scaling = field(default_factory=Scaling)
    """How the products of the LoRA factors are read."""
    seed: int = 0
    """The run's: an aggregator that starts factors anew draws them from it."""
    ledger: Tensors = field(default_factory=dict)
    """What other code would fold into the backbone: LoRA factors of scale 1, by the names of
    `tensors` (see `lamina.federation.algebra.residual_ledger`)."""
    discarded: Mapping[str, float] = field(default_factory=dict)
    """Per module, the squared Frobenius norm that the ledger's rank cap has cost so far."""
    optimiser_state: Tensors = field(default_factory=dict)
    """The moments of the server optimiser, as `<moment>:<tensor>`."""
    controls: Tensors = field(default_factory=dict)
    """The server's control variates (SCAFFOLD), by the names of `tensors`."""
    included: tuple[str, ...] = ()
    """The clients whose updates the last aggregation used, in order."""

    def digest(self) -> str:
        """The `base` of an update that starts from here: `digest_of` tensors and ledger."""
        return digest_of({**self.tensors, **{f"ledger:{n}": t for n, t in self.ledger.items()}})

    def plain(self) -> dict[str, Any]:
        """As a checkpoint packs it."""
        return {
            "tensors": dict(self.tensors),
            "ledger": dict(self.ledger),
            "optimiser_state": dict(self.optimiser_state),
            "controls": dict(self.controls),
            "discarded": dict(self.discarded),
            "included": list(self.included),
            "scaling": asdict(self.scaling),
            "seed": self.seed,
        }

    @staticmethod
    def of(plain: Mapping[str, Any]) -> "GlobalState":
        """Back from `plain`."""
        scaling, included = Scaling(**plain["scaling"]), tuple(plain["included"])
        return GlobalState(**{**plain, "scaling": scaling, "included": included})
