"""Training on kept features of the frozen layers, against running them in every step.

    python tests/benchmarks/features.py [--out FILE] [--lanes LANE ...]

One trial in this process, on one core: MiniLM with LoRA in its upper layers, several epochs over
one task, with the feature store and without; filling the store counts. What is compared is CPU
time, in turn. A lane `from_N` has its first adapted layer at N of six; `head` has none. With mu the
share of the layers from there on, a step takes 2 mu forwards instead of 1 + mu, so (1 + mu) / (2
mu) is what could be had if filling the store cost nothing; it is in the JSON as `model`.

Lane `unpadded` is another comparison: LoRA in all layers and no store, texts with their padding
against without.

The two sides' learned numbers are compared too: `difference` is the largest, and has to stay below
1e-4 (a row's features are computed without padding, so they round differently). In lane `unpadded`
1e-3 are allowed: without padding attention is given full vectors of keys, and torch's takes the
exponential of these by another formula than that of keys that are left over.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from harness import Lane, alternately, arguments, finish, ratios
from lamina.adapters import kind_class
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.backbones.unpadded import TokenPositions
from lamina.core import Samples, Stream
from lamina.strategies import strategy_class
from lamina.streams import ScenarioSettings, build_stream, source_class
from lamina.training.learner import Learner
from lamina.training.settings import TrainingSettings

LAYERS = 6
FIRST = {"from_2": 2, "from_3": 3, "from_4": 4, "from_5": 5, "head": LAYERS, "unpadded": 0}
"""The first adapted layer of a lane."""
TARGETS = dict(zip(FIRST, (1.1, 1.25, 1.6, 2.4, 5.0, 1.1), strict=True))
"""How many times as fast training has to be, filling included."""
ALLOWED = dict.fromkeys(FIRST, 1e-4) | {"unpadded": 1e-3}
"""How far a learned number may be off."""
EPOCHS = 6
REPEATS = 3
ROOM = 10**9


def main() -> None:
    """Measure the lanes that are asked for."""
    given = arguments(str(__doc__), list(TARGETS)).parse_args()
    torch.set_num_threads(1)
    source = source_class("assistant")(sentences_per_intent=10 if given.small else 30)
    raw = build_stream(source, ScenarioSettings("class_incremental", num_tasks=1), seed=0)
    lanes = []
    for name in given.lanes:
        first = FIRST[name]
        learned: dict[bool, Learner] = {}
        sides = [side(raw, name, better, learned) for better in (False, True)]
        values = ratios(alternately(*sides, given.repeats or (1 if given.small else REPEATS)))
        share = (LAYERS - first) / LAYERS
        details = {
            "model": (1 + share) / (2 * share) if 0 < share < 1 else None,
            "difference": difference(learned[False], learned[True]),
        }
        if details["difference"] > ALLOWED[name]:
            raise SystemExit(f"{name}: learned numbers differ by {details['difference']:.1e}")
        lanes.append(Lane(name, values, TARGETS[name], details=details))
    finish("Kept features", lanes, given.lanes, given.small, given.out)


def side(
    raw: Stream[Samples], lane: str, better: bool, learned: dict[bool, Learner]
) -> Callable[[], None]:
    """Training the whole stream from the beginning: with what the lane is about, or without."""
    backbone = load_backbone(BackboneSettings("minilm"))
    layers = tuple(range(FIRST[lane], LAYERS))
    padding = patch.object(TokenPositions, "of", lambda *_, **__: None)

    def train() -> None:
        with (
            TemporaryDirectory(prefix="lamina-benchmark-") as folder,
            padding if lane == "unpadded" and not better else nullcontext(),
        ):
            if lane != "unpadded" and better:
                backbone.keep_features(Path(folder), ROOM)
            learner = Learner(
                strategy=strategy_class("finetune" if layers else "linear_probe")(),
                adapter=kind_class("lora")(layers=layers) if layers else None,
                memory=None,
                training=TrainingSettings(epochs=EPOCHS, batch_size=16),
                seed=0,
                stream=backbone.encode_stream(raw),
                backbone=backbone,
            )
            learned[better] = learner
            list(learner.learn())

    return train


def difference(first: Learner, second: Learner) -> float:
    """The largest of a learned number."""
    return max(
        (tensor - second.model.adapters[name].tensors[key]).abs().max().item()
        for name, adapter in first.model.adapters.items()
        for key, tensor in adapter.tensors.items()
    )


if __name__ == "__main__":
    main()
