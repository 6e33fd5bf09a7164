"""What a job says of its backbone."""

from dataclasses import dataclass
from typing import Literal

from lamina.registry import InputError

Pooling = Literal["mean", "first"]
Tower = Literal["text", "vision", "encoder", "both"]
Quantisation = Literal["int8", "nf4"]


@dataclass(frozen=True)
class BackboneSettings:
    """Which frozen model, and how it is held."""

    name: str
    """A named backbone (`minilm`), a folder, or a Hugging Face hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the frozen weights and of what they compute."""
    quantize: Quantisation | None = None
    """How the weights of linear modules are held, on their device: null as they are; `int8`, as
    8-bit integers with a scale for each row (torchao); `nf4`, in the 4 bits of QLoRA with a scale
    for each 64 (bitsandbytes). They are numbers of `dtype` where they are computed with."""
    tower: Tower | None = None
    """Which half of a model that has two: of CLIP and SigLIP the one that reads images (`vision`,
    the default) or texts (`text`); of T5, BART and their kin the `encoder` (the default), or `both`
    encoder and decoder, for answers of tokens."""
    pooling: Pooling | None = None
    """How tokens become one feature: their `mean`, or the `first` (CLS). Default: as the model was
    trained, else the first for images whose model has a CLS, and the mean for all others.
    """
    max_length: int | None = None
    """Longest text, in tokens. Default: what the model was trained with."""
    max_memory_gb: float | None = None
    """Memory of the device that the weights may take. Larger ones are spread by accelerate over the
    other devices, host memory and disk. Default: what is free on the device.
    """

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise InputError(f"backbone.max_length: {self.max_length} is not positive")
        if self.max_memory_gb is not None and self.max_memory_gb <= 0:
            raise InputError(f"backbone.max_memory_gb: {self.max_memory_gb} is not positive")
        if self.max_memory_gb is not None and self.quantize is not None:
            raise InputError(
                f"backbone.max_memory_gb: {self.max_memory_gb} does not go with backbone.quantize, "
                "whose weights are all on the device (allowed: null)"
            )
