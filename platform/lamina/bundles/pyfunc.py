"""A bundle as a model for MLflow's `pyfunc`: data frames in and out. It imports no MLflow.

`mlflow.pyfunc.load_model` imports this module by name, in an environment that has Lamina, and calls
`_load_pyfunc` with the folder of the bundle.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lamina.bundles.bundle import open_bundle
from lamina.bundles.predictor import Predictor, load_predictor
from lamina.registry import InputError
from lamina.streams.images import Background, decode

if TYPE_CHECKING:
    from pandas import DataFrame


class PyfuncModel:
    """The model that MLflow calls."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> "DataFrame":
        """The best class of each row: `label`, `score` (its share of the softmax) and `task` (whose
        module answered, where the strategy decides for one; else None). Of a language model what it
        says behind each prompt: `text`, `is_whole` (whether it came to its end) and `task`.

        `model_input` is a data frame with one column, or a list, of texts or of encoded images
        (bytes of a PNG or JPEG file). `params` has the `task` where predictions are told theirs,
        and `max_new_tokens`. Raises InputError for something else.
        """
        import pandas

        values, given = _values(model_input), params or {}
        index = model_input.index if isinstance(model_input, pandas.DataFrame) else None
        if self.predictor.bundle.facts.answers == "tokens":
            max_new_tokens = given.get("max_new_tokens")
            said = self.predictor.generate(values, given.get("task"), max_new_tokens)
            columns: dict[str, list[Any]] = {
                "text": [each.text for each in said],
                "is_whole": [each.is_whole for each in said],
                "task": [each.task for each in said],
            }
            return pandas.DataFrame(columns, index=index)
        if self.predictor.model.backbone.modality == "image":
            stream = self.predictor.bundle.job.stream
            background: Background = getattr(stream, "background", "white")
            values = [_image(each, place, background) for place, each in enumerate(values)]
        found = self.predictor.predict(values, given.get("task"))
        columns = {
            "label": [each.label for each in found],
            "score": [each.score for each in found],
            "task": [each.task for each in found],
        }
        return pandas.DataFrame(columns, index=index)


def _load_pyfunc(path: str) -> PyfuncModel:
    """MLflow's entry: the model of a bundle's folder, on a GPU if there is one."""
    return PyfuncModel(load_predictor(open_bundle(Path(path))))


def _values(model_input: Any) -> Sequence[Any]:
    columns = getattr(model_input, "columns", None)
    if columns is None:
        return list(model_input)
    if len(columns) != 1:
        raise InputError(
            f"model_input: {len(columns)} columns, {[str(each) for each in columns]} (allowed: one "
            "of texts or of images)"
        )
    return list(model_input.iloc[:, 0])


def _image(content: Any, place: int, background: Background) -> torch.Tensor:
    """A picture as uint8 [height, width, 3], as the stream of the trial made it of a file."""
    if not isinstance(content, bytes):
        raise InputError(f"model_input: {content!r:.80} is no image (allowed: bytes of a file)")
    return torch.from_numpy(decode(content, f"model_input: number {place + 1}", background))
