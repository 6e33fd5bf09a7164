"""A frozen Hugging Face encoder: loaded once, never changed, with every adapter laid over it call
by call."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lamina.backbones.architecture import read_architecture
from lamina.backbones.attention import NAME as ATTENTION
from lamina.backbones.attention import attend_with_prefixes
from lamina.backbones.encoding import Encoder
from lamina.backbones.features import FeatureStore
from lamina.backbones.hooks import laid_over
from lamina.backbones.kept_layers import KeptLayers
from lamina.backbones.operations import is_counting
from lamina.backbones.overlay import (
    KeysAndValues,
    Overlay,
    StandIn,
    rows_of,
)
from lamina.backbones.packing import added_by, are_shared, packed
from lamina.backbones.unpadded import Places
from lamina.core import KEYS, Batch, Experience, LazyInput, Modality, Samples, Stream
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooling = Literal["mean", "first"]
POSITIONS_COUNT_A_PREFIX = ("bert", "electra")
"""Models whose own cache of keys and values moves the input's positions, and so do PEFT's prefixes
on them."""

POSITIONS_ARE_EMBEDDED = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
"""Models whose layers know a token's place from its embedding alone."""


@dataclass(frozen=True)
class BackboneSettings:
    """Which frozen model, and how it is held."""

    name: str
    """A named backbone (`minilm`), a folder, or a Hugging Face hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type of the frozen weights and of what they compute."""
    pooling: Pooling | None = None
    """How tokens become one feature: their `mean`, or the `first` (CLS). Default: as the model was
    trained, else the mean for text and the first for images.
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


@dataclass(frozen=True)
class Hidden:
    """What a backbone says of N inputs."""

    features: Tensor
    """float32 [N, dim]: the tokens pooled, prompts left out."""
    prompts: Tensor | None
    """float32 [N, dim]: the mean over the prompts' output tokens, where there are prompts."""


@dataclass(frozen=True)
class Call:
    """N inputs under an overlay."""

    inputs: Mapping[str, Tensor]
    overlay: Overlay

    @property
    def num_rows(self) -> int:
        """N."""
        return len(next(iter(self.inputs.values())))


class Gate(Protocol):
    """Who runs the calls of several callers."""

    def run(self, call: Call) -> Hidden:
        """As `Backbone.run`."""
        ...

    def gradients(
        self, loss: Tensor, tensors: Sequence[Tensor], keep: bool
    ) -> Sequence[Tensor | None]:
        """As `Backbone.gradients`."""
        ...


class Backbone:
    """A frozen transformer on a device. Calls differ only in the overlay laid over it; nothing here
    is ever trained."""

    def __init__(
        self,
        model: "PreTrainedModel",
        encoder: Encoder,
        settings: BackboneSettings,
        pooling: Pooling,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.encoder = encoder
        self.settings = settings
        self.pooling = pooling
        self.takes_prefixes = attend_with_prefixes(model)
        """Whether its attention can see keys and values put before its own."""
        self.architecture = read_architecture(model)
        self.device = model.device
        self._layers = KeptLayers(model, self.architecture, encoder.modality)
        self.features: FeatureStore | None = None
        """What is kept of the frozen layers' work, where `keep_features` asked for it."""
        self._gate: Gate | None = None
        self._num_asked = 0

    @property
    def modality(self) -> Modality:
        """What it reads."""
        return self.encoder.modality

    @property
    def dim(self) -> int:
        """Width of a token and of a feature."""
        return int(self.model.config.hidden_size)

    @property
    def model_type(self) -> str:
        """Its Hugging Face model type (`bert`, `vit` ...)."""
        return str(self.model.config.model_type)

    def keep_features(self, folder: Path, max_bytes: int) -> None:
        """Compute what the frozen layers make of a stream's samples once, and keep it in a folder
        for as long as `max_bytes` allow. Streams that are encoded from now on take part."""
        computes = f"{self.digest}/{self.pooling}/{self.device.type}/{torch.__version__}"
        name = sha256(computes.encode()).hexdigest()[:32]
        self.features = FeatureStore(folder, name, max_bytes)

    @cached_property
    def digest(self) -> str:
        """A sha256 of its weights: two backbones with one digest compute the same."""
        digest = sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def num_parameters(self) -> int:
        """How many frozen numbers it holds."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def shape_of(self, name: str) -> tuple[int, int]:
        """Input and output width of a linear module, or twice the width of a LayerNorm."""
        module = self.model.get_submodule(name)
        if isinstance(module, nn.LayerNorm):
            return module.normalized_shape[0], module.normalized_shape[0]
        assert isinstance(module, nn.Linear)
        return module.in_features, module.out_features

    def keys_and_values(self, tokens: Tensor, layer: int) -> KeysAndValues:
        """The frozen keys and values of a layer for tokens [..., length, dim] that enter it.

        Raises InputError where it is not certain what the attention of this model reads.
        """
        parts = self.architecture
        if parts.norms_before_attention is None:
            raise InputError(
                f"backbone.name: what the attention of a {self.model_type!r} model reads is unknown"
            )
        # A copy: torch's counter of operations loses a view that enters a module in inference mode.
        read = self._layers.read_by_attention(tokens.to(self.model.dtype, copy=True), layer)
        _, key, value = self._layers.projections(layer)
        return key(read), value(read)

    def encode(self, samples: Samples) -> Batch:
        """Texts or images as tensors that the model takes, padded to the longest."""
        inputs = self.encoder(samples.values)
        made = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        lazy = {name: value for name, value in inputs.items() if isinstance(value, LazyInput)}
        return Batch(made, samples.labels, samples.ids, lazy=lazy)

    def encode_stream(self, stream: Stream[Samples]) -> Stream[Batch]:
        """The whole stream encoded; every batch knows its task, and every task the names of its
        classes. What is evaluated is sorted by length. Raises InputError for the wrong modality."""
        if stream.modality != self.modality:
            raise InputError(
                f"backbone.name: {self.settings.name!r} reads {self.modality}s, "
                f"but the stream {stream.name!r} is of {stream.modality}s"
            )
        encoded = stream.map(self._encode_known)
        experiences = []
        for each in encoded.experiences:
            names = tuple(stream.class_names[number] for number in each.task.classes)
            task = replace(each.task, class_names=names)
            parts = (each.train, each.validation.by_length(), each.test.by_length())
            experiences.append(Experience(task, *(replace(part, task=task) for part in parts)))
        return replace(encoded, experiences=tuple(experiences))

    def __call__(self, inputs: Mapping[str, Tensor], overlay: Overlay | None = None) -> Hidden:
        """Run the model on N inputs under an overlay.

        The gradient reaches the overlay's tensors. What lies below everything that is laid over is
        taken from the feature store, where there is one that knows the inputs.
        """
        call = Call(inputs, overlay or Overlay())
        self._num_asked += call.num_rows
        if self.frozen_below(call.overlay) == self.architecture.num_layers:
            features = self._layers.features(self.features, inputs, self._bare)
            if features is not None:
                return Hidden(features, None)
        return self.run(call) if self._gate is None else self._gate.run(call)

    def gradients(
        self, loss: Tensor, tensors: Sequence[Tensor], *, keep: bool
    ) -> Sequence[Tensor | None]:
        """The gradient of a scalar with respect to each tensor; None where it does not depend on
        it. `keep`: the graph is gone back through again."""
        if self._gate is not None:
            return self._gate.gradients(loss, tensors, keep)
        return torch.autograd.grad(loss, tensors, allow_unused=True, retain_graph=keep)

    def through(self, gate: Gate) -> "Backbone":
        """The same model and features; every call that runs the model is handed to `gate`."""
        view = copy(self)
        view._gate = gate
        return view

    @contextmanager
    def by_itself(self, *, whole: bool = False) -> Iterator[None]:
        """Inside, every call runs here and now and with nobody else's, because only its caller goes
        back through its graph. `whole`: and from the first layer on, for its work to be counted."""
        features, gate = self.features, self._gate
        self.features, self._gate = (None if whole else features), None
        try:
            yield
        finally:
            self.features, self._gate = features, gate

    def run(self, call: Call) -> Hidden:
        """What `__call__` says, here and now."""
        overlay = call.overlay
        arguments = {name: value for name, value in call.inputs.items() if name != KEYS}
        prompts = [rows_of(prompt, call.num_rows) for prompt in overlay.prompts]
        prompt = torch.cat(prompts, dim=1) if prompts else None
        model = self.model if overlay.stand_in is None else overlay.stand_in.module
        embedded = prompt if self.modality == "image" else None
        start = self.frozen_below(overlay)
        kept = self._layers.tokens(self.features, start, call.inputs)
        with laid_over(model, self.architecture, overlay, embedded):
            if self.modality == "text":
                arguments = self._text_arguments(arguments, prompt, overlay.position_shift)
            places = self._places(overlay, arguments)
            with self._layers.begun(start, kept, overlay, arguments, places):
                tokens = self._run(arguments, overlay.stand_in).last_hidden_state
        if places is not None:
            tokens = places.within(tokens)[:, : arguments["attention_mask"].shape[1]]
        return self._pooled(
            tokens, call.inputs.get("attention_mask"), 0 if prompt is None else prompt.shape[1]
        )

    def meeting(self, call: Call) -> Hashable | None:
        """Calls that this is the same of can be run together; None where one only runs alone.

        Texts meet where they are padded to one length: padding further would round differently.
        """
        added = added_by(call.overlay)
        if added is None:
            return None
        shapes = {name: value.shape[1:] for name, value in call.inputs.items()}
        shape = tuple(sorted(shapes.items()))
        return added, shape, self.frozen_below(call.overlay), torch.is_grad_enabled()

    def run_together(self, calls: Sequence[Call]) -> list[Hidden]:
        """`run` for calls that meet, in one forward: each sees its own rows and overlay."""
        sizes = [call.num_rows for call in calls]
        inputs = {
            name: torch.cat([call.inputs[name] for call in calls]) for name in calls[0].inputs
        }
        overlays = [call.overlay for call in calls]
        stack = self.device.type != "cpu"
        hidden = self.run(Call(inputs, packed(overlays, sizes, stack=stack)))
        features = hidden.features.split(sizes)
        if hidden.prompts is None:
            return [Hidden(each, None) for each in features]
        return [Hidden(*both) for both in zip(features, hidden.prompts.split(sizes), strict=True)]

    def _encode_known(self, samples: Samples) -> Batch:
        """Encoded, and known to the feature store."""
        batch = self.encode(samples)
        inputs: dict[str, Tensor | LazyInput] = {**batch.inputs, **batch.lazy}
        keys = None if self.features is None else self.features.register(inputs)
        return batch if keys is None else replace(batch, inputs={**batch.inputs, KEYS: keys})

    def frozen_below(self, overlay: Overlay) -> int:
        """How many layers lie below everything that is laid over: all where nothing is."""
        parts = self.architecture
        if overlay.stand_in is not None or overlay.prompts or overlay.position_shift:
            return 0
        modules = {*overlay.input_patches}
        for site in overlay.patches:
            modules |= {site.read, site.write}
        layers = [*overlay.prefixes, *(parts.layer_of(module) for module in modules)]
        return min(layers, default=parts.num_layers)

    def _bare(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features [N, dim] of the model with nothing laid over it."""
        return self.run(Call(inputs, Overlay())).features

    def _places(self, overlay: Overlay, arguments: Mapping[str, Tensor]) -> Places | None:
        """Where the tokens are of texts that can do without padding, and gain by it: under an
        adapter (the features of the bare backbone are kept), on a CPU, where all that is laid over
        it treats tokens alike. Where operations are counted, padding counts as any token."""
        mask = arguments.get("attention_mask")
        patches = (*overlay.patches.values(), *overlay.input_patches.values())
        added = added_by(overlay)
        if (
            mask is None
            or added is None
            or not (patches or overlay.prefixes or overlay.prompts)
            or self.model_type not in POSITIONS_ARE_EMBEDDED
            or self.model.config._attn_implementation != ATTENTION
            or getattr(self.model.config, "is_decoder", False)
            or self.device.type != "cpu"
            or is_counting()
            or not all(map(are_shared, patches))
        ):
            return None
        return Places.of(mask, max(added.prefixes, default=0))

    @contextmanager
    def counting_rows(self) -> Iterator[Callable[[], int]]:
        """How many rows it has been asked about inside, kept or run, by a call of what is given."""
        before = self._num_asked
        yield lambda: self._num_asked - before

    def _run(self, arguments: dict[str, Tensor], stand_in: StandIn | None) -> Any:
        if stand_in is None:
            return self.model(**arguments)
        return functional_call(stand_in.module, dict(stand_in.tensors), kwargs=arguments)

    def _text_arguments(
        self, arguments: dict[str, Tensor], prompt: Tensor | None, position_shift: int
    ) -> dict[str, Tensor]:
        ids = arguments["input_ids"]
        if position_shift and self.model_type in POSITIONS_COUNT_A_PREFIX:
            positions = torch.arange(ids.shape[1], device=ids.device) + position_shift
            arguments["position_ids"] = positions[None]
        if prompt is not None:
            words = self.model.get_input_embeddings()(arguments.pop("input_ids"))
            arguments["inputs_embeds"] = torch.cat([prompt.to(words.dtype), words], dim=1)
            for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
                if name in arguments:
                    padding = (prompt.shape[1], 0)
                    arguments[name] = nn.functional.pad(arguments[name], padding, value=value)
        return arguments

    def _pooled(self, tokens: Tensor, mask: Tensor | None, num_prompts: int) -> Hidden:
        """Prompts come first in a text; in an image they follow the first token, which
        is the CLS.
        """
        tokens = tokens.float()
        start = 0 if self.modality == "text" else 1
        prompts = tokens[:, start : start + num_prompts].mean(dim=1) if num_prompts else None
        own = (
            torch.cat([tokens[:, :start], tokens[:, start + num_prompts :]], dim=1)
            if num_prompts
            else tokens
        )
        if self.pooling == "first":
            return Hidden(own[:, 0], prompts)
        if mask is None:
            return Hidden(own.mean(dim=1), prompts)
        weights = mask.to(own.dtype)[:, :, None]
        return Hidden((own * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0), prompts)
