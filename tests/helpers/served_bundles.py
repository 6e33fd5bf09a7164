"""Bundles to be served: strategies after two tasks of the small stream of nouns."""

from pathlib import Path

from bundle_cases import calls_job, mapping_of, new_learner, write_data
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.bundles import write_bundle
from lamina.config import build_learner
from lamina.strategies import strategy_class
from language_models import calls_stream

TEXTS = [
    "turn on the light",
    "is there a door in the kitchen",
    "what about the timer",
    "song please",
    "I want the song, and something else that is much longer than the rest of these sentences",
    "stop",
]


def write_served(strategy: str, folder: Path, loaded, where: Path, **sections) -> Path:
    """The bundle of a strategy on a backbone that is `loaded` from `where`, in a folder of its
    name, or of `name`."""
    name = sections.pop("name", strategy)
    is_domain = strategy_class(strategy).scenarios[0] == "domain_incremental"
    data = folder / f"data-{is_domain}"
    if not data.exists():
        write_data(data, range(2), is_domain)
    mapping = mapping_of(strategy, data, where) | sections
    job, learner = new_learner(mapping, loaded)
    list(learner.learn())
    write_bundle(job, learner, folder / name, name=name, trial=f"{name}-0")
    return folder / name


def write_speaking(strategy: str, folder: Path, model: Path) -> Path:
    """The bundle of a strategy on a tiny language model, after its stream of calls."""
    backbone = load_backbone(BackboneSettings(str(model)))
    job = calls_job(strategy, model)
    learner = build_learner(job, calls_stream(backbone), backbone)
    list(learner.learn())
    write_bundle(job, learner, folder, name=strategy, trial=f"{strategy}-0")
    return folder
