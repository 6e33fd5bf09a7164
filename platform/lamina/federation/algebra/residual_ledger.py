"""The residual ledger: what the public code of FLoRA and FedEx-LoRA folds into the backbone lies
beside it, as frozen low-rank factors.

So the backbone stays what it was: any round can be replayed, and clients, trials and tasks share
it. A ledger is tensors `<adapter>.<module>.lora_A.weight` and `...lora_B.weight` of scale 1. It is
for adapters that are laid over every input, as the backbone is: not for a task's own.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from lamina.adapters.kinds.lora import LoRA
from lamina.federation.algebra.lowrank import Factors, folded, stacked, truncated
from lamina.federation.state import GlobalState
from lamina.federation.update import LORA_A, LORA_B, Tensors, modules_of
from lamina.registry import InputError


def check_rank(rank: int | None) -> None:
    """Raise InputError for a cap that cannot be."""
    if rank is not None and rank < 1:
        raise InputError(f"aggregator.ledger_rank: {rank} is not positive")


def entered(
    state: GlobalState, residuals: Mapping[str, Factors], rank: int | None = None
) -> GlobalState:
    """The state with the residual of each module added to its ledger.

    A module's ranks are stacked. Above `rank` the stack is recompressed by QR and a small SVD, and
    what that leaves out is added to the state's `discarded`; above what a matrix of the module's
    shape can have, it is folded without loss.
    """
    ledger, discarded = dict(state.ledger), dict(state.discarded)
    for module, residual in residuals.items():
        terms = [residual]
        if module + LORA_A in ledger:
            terms.insert(0, (ledger[module + LORA_B].double(), ledger[module + LORA_A].double()))
        b, a = stacked(terms)
        full = min(len(b), a.shape[1])
        if rank is not None and rank < full and len(a) > rank:
            (b, a), lost = truncated((b, a), rank)
            discarded[module] = discarded.get(module, 0.0) + lost
        elif len(a) > full:
            b, a = folded((b, a))
        ledger[module + LORA_B], ledger[module + LORA_A] = b.float(), a.float()
    return replace(state, ledger=ledger, discarded=discarded)


def ledger_rank(ledger: Tensors) -> int:
    """The largest rank of its modules; 0 where it is empty."""
    return max((len(tensor) for name, tensor in ledger.items() if name.endswith(LORA_A)), default=0)


def as_lora(ledger: Tensors, kind: LoRA) -> dict[str, dict[str, Tensor]]:
    """Per adapter, the tensors that lay its share of the ledger over the backbone under `kind`, for
    `AdaptedModel.keep(name, kind, tensors)`.

    The kind's scale alpha / rank is divided out of B, so that the job's own kind can be used, and
    so that `lamina.adapters.kinds.lora.concatenate` of the adapter and its ledger is the whole
    update as one LoRA, which PEFT loads.
    """
    adapters: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for full in modules_of(ledger):
        adapter, _, module = full.partition(".")
        adapters[adapter][module + LORA_A] = ledger[full + LORA_A]
        adapters[adapter][module + LORA_B] = ledger[full + LORA_B] * (kind.rank / kind.alpha)
    return dict(adapters)
