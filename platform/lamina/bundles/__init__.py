"""Bundles: what a finished trial leaves, how it answers, and how it learns one more task.

A bundle is one folder. Read back, it answers bit-equal to the trial that wrote it::

    bundle.json            what it is: classes in order, tasks, backbone, numbers, digests
    job.json               the trial's job, as `parse_job` reads it
    model.safetensors      what answers: adapters, heads, and what the strategy remembers
    learner.safetensors    what it takes to learn on: exemplars, matrices, counters
    predictions.csv        what it said of every row of the test parts
    classes.json           the classes and tasks by name, and how well each class is known
    adapters/NAME/         each trained adapter in PEFT's own format
    tokenizer/             the tokenizer of a text model, or the image processor

Nothing here is pickled, and every file's SHA-256 stands in bundle.json.
"""

from lamina.bundles.bundle import BEST, Bundle, find_bundle, open_bundle
from lamina.bundles.generation import Generation
from lamina.bundles.predictor import Prediction, Predictor, load_predictor
from lamina.bundles.writing import write_bundle

__all__ = [
    "BEST",
    "Bundle",
    "Generation",
    "Prediction",
    "Predictor",
    "find_bundle",
    "load_predictor",
    "open_bundle",
    "write_bundle",
]
