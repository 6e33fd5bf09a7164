"""Trials packed into one forward and one backward, against the same trials one after the other.

    python tests/benchmarks/packing.py [--out FILE] [--lanes LANE ...]

Both sides run in this process on one core, on MiniLM with LoRA of rank 8 on query and value, and
take the same optimiser steps; what is compared is CPU time, in turn.

- `16_tokens`: 16 trials, one text of 16 tokens each; `64_tokens`: 8 trials, four such texts. How
  many times as long the trials take one by one.
- `memory_mb`: what a further packed trial takes: its tensors, gradients and the optimiser's
  moments, counted, and not what the rows of its batch take while they are there.
- `difference`: real learners of every adapter kind that packs, each with three learning rates over
  100 steps and evaluated, as a cohort and alone: the largest difference of a learned number. The
  accuracy matrices have to be identical, or the benchmark ends with what differs.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from harness import Lane, alternately, arguments, finish, ratios, stdout
from lamina.adapters import kind_class, kind_names
from lamina.adapters.model import AdaptedModel
from lamina.backbones.backbone import Backbone
from lamina.backbones.calls import Call
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.core import Batch, Stream
from lamina.losses import cross_entropy
from lamina.strategies import strategy_class
from lamina.streams import ScenarioSettings, build_stream, source_class
from lamina.training.cohort import Cohort, shared
from lamina.training.learner import Learner
from lamina.training.settings import TrainingSettings

WIDTH = 16
"""Tokens of a text."""
SPEED = {"16_tokens": (16, 1, 1.8), "64_tokens": (8, 4, 1.2)}
"""Trials, texts of each, and how many times as fast packing has to be."""
LANES = [*SPEED, "memory_mb", "difference"]
REPEATS = 7
STEPS = 3
RATES = (5e-4, 1e-3, 2e-3)
MEGABYTE = 1e6


def main() -> None:
    """Measure the lanes that are asked for."""
    given = arguments(str(__doc__), LANES).parse_args()
    torch.set_num_threads(1)
    backbone = load_backbone(BackboneSettings("minilm"))
    lanes = []
    for name, (number, rows, target) in SPEED.items():
        if name in given.lanes:
            repeats = given.repeats or (1 if given.small else REPEATS)
            one_by_one, packed = (trials(backbone, number, rows, each) for each in (False, True))
            values = ratios(alternately(one_by_one, packed, repeats))
            lanes.append(Lane(name, values, target, details={"trials": number, "rows": rows}))
    if "memory_mb" in given.lanes:
        lanes.append(Lane("memory_mb", [memory(backbone)], 5.0, at_least=False, unit="MB"))
    if "difference" in given.lanes:
        found = {name: difference(backbone, name, given.small) for name in packing_kinds(backbone)}
        for name, value in found.items():
            stdout().print(f"{name}: {value:.1e}")
        largest = max(found.values())
        lanes.append(Lane("difference", [largest], 1e-5, at_least=False, unit="", details=found))
    finish("Packing", lanes, given.lanes, given.small, given.out)


def trials(backbone: Backbone, number: int, rows: int, packed: bool) -> Callable[[], None]:
    """A few steps of so many trials, packed or one by one."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (rows, WIDTH), generator=generator)
    ones = torch.ones_like(ids)
    inputs = {"input_ids": ids, "attention_mask": ones, "token_type_ids": 0 * ones}
    labels = torch.randint(10, (rows,), generator=generator)
    models = [adapted(backbone, seed) for seed in range(number)]
    trained = [list(model.parameters().values()) for model in models]
    optimizers = [torch.optim.AdamW(tensors, 1e-3) for tensors in trained]

    def descend(own: list[Tensor], gradients: tuple[Tensor, ...], at: int) -> None:
        for tensor, gradient in zip(own, gradients, strict=True):
            tensor.grad = gradient
        optimizers[at].step()

    def one_by_one() -> None:
        for at, model in enumerate(models):
            loss = cross_entropy(model(inputs).logits, labels)
            descend(trained[at], torch.autograd.grad(loss, trained[at]), at)

    def together() -> None:
        calls = [Call(inputs, model.overlay()) for model in models]
        hidden = backbone.run_together(calls)
        losses = [
            cross_entropy(model.logits(each.features), labels)
            for model, each in zip(models, hidden, strict=True)
        ]
        every = [tensor for own in trained for tensor in own]
        gradients = iter(torch.autograd.grad(losses, every))
        for at, own in enumerate(trained):
            descend(own, tuple(next(gradients) for _ in own), at)

    def steps() -> None:
        for _ in range(STEPS):
            (together if packed else one_by_one)()

    return steps


def adapted(backbone: Backbone, seed: int) -> AdaptedModel:
    """A trial's model: LoRA of rank 8 and a head of ten classes."""
    model = AdaptedModel(backbone, kind_class("lora")(rank=8), seed)
    model.add()
    model.grow_head(10)
    return model


def memory(backbone: Backbone) -> float:
    """Megabytes of a trial's tensors, their gradients and AdamW's two moments."""
    tensors = adapted(backbone, 0).parameters().values()
    return 4 * sum(each.numel() * each.element_size() for each in tensors) / MEGABYTE


def packing_kinds(backbone: Backbone) -> list[str]:
    """The adapter kinds whose trials are packed."""
    return [name for name in kind_names() if kind_class(name).packs]


def difference(backbone: Backbone, kind: str, small: bool) -> float:
    """The largest difference of a learned number between trials of a cohort and alone. Raises
    SystemExit where an accuracy differs."""
    source = source_class("assistant")()
    settings = ScenarioSettings("class_incremental", num_tasks=2, limit_per_class=1 if small else 2)
    stream = backbone.encode_stream(build_stream(source, settings, seed=0))
    alone = [learner(backbone, stream, kind, rate) for rate in RATES]
    expected = [[report.test for report in each.learn()] for each in alone]
    members = [learner(shared(backbone), stream, kind, rate) for rate in RATES]
    cohort = Cohort(most_rows=1024)
    found: list[list[object]] = [[] for _ in RATES]
    for at, member in enumerate(members):
        cohort.add(str(at), member)
    while cohort.can_advance:
        for boundary in cohort.advance():
            if boundary.error is not None:
                raise boundary.error
            if boundary.report is None:
                cohort.remove(boundary.name)
            else:
                found[int(boundary.name)].append(boundary.report.test)
                cohort.go_on(boundary.name)
    if found != expected:
        raise SystemExit(f"{kind}: accuracies differ: {found} packed, {expected} alone")
    return max(
        (tensor - other.model.adapters[name].tensors[key]).abs().max().item()
        for one, other in zip(alone, members, strict=True)
        for name, adapter in one.model.adapters.items()
        for key, tensor in adapter.tensors.items()
    )


def learner(backbone: Backbone, stream: Stream[Batch], kind: str, rate: float) -> Learner:
    """100 steps, about, of plain fine-tuning."""
    rows = sum(len(each.train) for each in stream.experiences)
    training = TrainingSettings(batch_size=8, learning_rate=rate)
    epochs = max(1, -(-100 * training.batch_size // rows))
    return Learner(
        strategy=strategy_class("finetune")(),
        adapter=kind_class(kind)(),
        memory=None,
        training=replace(training, epochs=epochs),
        seed=0,
        stream=stream,
        backbone=backbone,
    )


if __name__ == "__main__":
    main()
