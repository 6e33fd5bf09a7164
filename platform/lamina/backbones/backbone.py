"""A frozen Hugging Face encoder: loaded once, never changed, with every adapter laid over it call
by call."""

import tempfile
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from lamina.backbones.attention import PREFIXES, attend_with_prefixes
from lamina.backbones.encoding import Encoder, load_encoder
from lamina.backbones.features import FeatureStore
from lamina.backbones.locate import config_of, locate
from lamina.backbones.overlay import (
    InputPatch,
    KeysAndValues,
    Overlay,
    Patch,
    Prefix,
    Site,
    StandIn,
    rows_of,
)
from lamina.backbones.packing import lengths_of, packed
from lamina.core import KEYS, Batch, Experience, Modality, Samples, Stream
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooling = Literal["mean", "first"]
POSITIONS_COUNT_A_PREFIX = ("bert", "electra")
"""Models whose own cache of keys and values moves the input's positions, and so do PEFT's prefixes
on them."""


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
        self.features: FeatureStore | None = None
        """What is kept of the frozen layers' work, where `keep_features` asked for it."""
        self._gate: Gate | None = None

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
        tokens = tokens.to(self.model.dtype, copy=True)
        if parts.norms_before_attention:
            tokens = self.model.get_submodule(parts.norms_before_attention[layer])(tokens)
        _, key, value = (f"{parts.attentions[layer]}.{name}" for name in parts.projections)
        return self.model.get_submodule(key)(tokens), self.model.get_submodule(value)(tokens)

    def encode(self, samples: Samples) -> Batch:
        """Texts or images as tensors that the model takes, padded to the longest."""
        return Batch(self.encoder(samples.values), samples.labels, samples.ids)

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
        if self.frozen_below(call.overlay) == self.architecture.num_layers:
            features = self._kept_features(inputs)
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
        overlay, arguments = call.overlay, dict(call.inputs)
        keys = arguments.pop(KEYS, None)
        prompts = [rows_of(prompt, call.num_rows) for prompt in overlay.prompts]
        prompt = torch.cat(prompts, dim=1) if prompts else None
        start = self.frozen_below(overlay)
        entering = None if keys is None else self._kept_tokens(start, keys, arguments)
        with self._entered_at(start, entering), self._laid_over(overlay, prompt):
            if self.modality == "text":
                arguments = self._text_arguments(arguments, prompt, overlay.position_shift)
            tokens = self._run(arguments, overlay.stand_in).last_hidden_state
        return self._pooled(
            tokens, call.inputs.get("attention_mask"), 0 if prompt is None else prompt.shape[1]
        )

    def meeting(self, call: Call) -> Hashable | None:
        """Calls that this is the same of can be run together; None where one only runs alone.

        Texts meet where they are padded to one length: padding further would round differently.
        """
        lengths = lengths_of(call.overlay)
        if lengths is None:
            return None
        shapes = {name: value.shape[1:] for name, value in call.inputs.items()}
        shape = tuple(sorted(shapes.items()))
        return lengths, shape, self.frozen_below(call.overlay), torch.is_grad_enabled()

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
        keys = None if self.features is None else self.features.register(batch.inputs)
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

    @torch.no_grad()
    def _kept_features(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """Features [N, dim] out of the store."""
        if self.features is None or KEYS not in inputs:
            return None

        def compute(samples: Mapping[str, Tensor]) -> Tensor:
            return self.run(Call(self._placed(samples), Overlay())).features

        features = self.features.features(inputs[KEYS].cpu(), compute)
        return None if features is None else features.to(self.device)

    @torch.no_grad()
    def _kept_tokens(
        self, layer: int, keys: Tensor, arguments: Mapping[str, Tensor]
    ) -> Tensor | None:
        """Tokens [N, S, dim] that enter a layer, out of the store."""
        if self.features is None or not 0 < layer < self.architecture.num_layers:
            return None

        def compute(samples: Mapping[str, Tensor]) -> Tensor:
            with self._ended_before(layer) as entering:
                self._run(self._placed(samples), None)
            return entering[0]

        width = max((each.shape[1] for each in arguments.values() if each.dim() == 2), default=0)
        tokens = self.features.tokens(layer, keys.cpu(), width, compute)
        return None if tokens is None else tokens.to(self.device)

    def _placed(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in inputs.items()}

    @contextmanager
    def _entered_at(self, layer: int, tokens: Tensor | None) -> Iterator[None]:
        """With tokens, the model begins at a layer, with them."""
        if tokens is None:
            yield
            return
        name = f"{self.architecture.stack}.{layer}"

        def enter(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
            return (tokens, *arguments[1:])

        with self._skipped(range(layer)):
            handle = self.model.get_submodule(name).register_forward_pre_hook(enter)
            try:
                yield
            finally:
                handle.remove()

    @contextmanager
    def _ended_before(self, layer: int) -> Iterator[list[Tensor]]:
        """The model skips its layers from one on; what would have entered it is in the list."""
        entering: list[Tensor] = []
        name = f"{self.architecture.stack}.{layer}"

        def leave(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            entering.append(arguments[0])

        with self._skipped(range(layer, self.architecture.num_layers)):
            handle = self.model.get_submodule(name).register_forward_pre_hook(leave)
            try:
                yield entering
            finally:
                handle.remove()

    @contextmanager
    def _skipped(self, layers: range) -> Iterator[None]:
        """Layers that hand on what they get."""
        stack = self.model.get_submodule(self.architecture.stack)
        before = {}
        for layer in layers:
            module = stack.get_submodule(str(layer))
            # accelerate may have put a forward of its own there.
            before[module] = module.__dict__.get("forward")
            module.forward = _hand_on
        try:
            yield
        finally:
            for module, forward in before.items():
                del module.forward
                if forward is not None:
                    module.forward = forward

    @contextmanager
    def counting_rows(self) -> Iterator[Callable[[], int]]:
        """How many rows have gone through the model inside, by a call of what is given."""
        rows = 0

        def count(_: nn.Module, __: Any, tokens: Any) -> None:
            nonlocal rows
            rows += len(tokens.last_hidden_state)

        handle = self.model.register_forward_hook(count)
        try:
            yield lambda: rows
        finally:
            handle.remove()

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

    @contextmanager
    def _laid_over(self, overlay: Overlay, prompt: Tensor | None) -> Iterator[None]:
        """Hooks for the length of one forward, so that what an earlier call laid over can never
        leak into a later one."""
        model = self.model if overlay.stand_in is None else overlay.stand_in.module
        parts = self.architecture
        with ExitStack() as stack:
            for name, input_patches in overlay.input_patches.items():
                hook = _input_hook(input_patches)
                stack.callback(model.get_submodule(name).register_forward_pre_hook(hook).remove)
            for site, patches in overlay.patches.items():
                for handle in _patch_hooks(model, site, patches):
                    stack.callback(handle.remove)
            for layer, prefixes in overlay.prefixes.items():
                attention = model.get_submodule(parts.attentions[layer])
                hook = _prefix_hook(attention, prefixes)
                entrance = model.get_submodule(f"{parts.stack}.{layer}")
                stack.callback(entrance.register_forward_pre_hook(hook).remove)
                setattr(attention, PREFIXES, ())
                stack.callback(delattr, attention, PREFIXES)
            if prompt is not None and self.modality == "image":
                embeddings = model.get_submodule("embeddings")
                stack.callback(embeddings.register_forward_hook(_insert_after_first(prompt)).remove)
            yield


def _input_hook(patches: Sequence[InputPatch]) -> Any:
    def rewrite(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = arguments[0]
        for patch in patches:
            x = patch(x)
        return (x, *arguments[1:])

    return rewrite


def _patch_hooks(model: nn.Module, site: Site, patches: Sequence[Patch]) -> Iterator[Any]:
    seen: dict[str, Tensor] = {}

    def read(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen["x"] = arguments[0]

    def write(_: nn.Module, __: tuple[Tensor, ...], y: Tensor) -> Tensor:
        x = seen.pop("x")
        for patch in patches:
            y = patch(x, y)
        return y

    yield model.get_submodule(site.read).register_forward_pre_hook(read)
    yield model.get_submodule(site.write).register_forward_hook(write)


def _prefix_hook(attention: nn.Module, prefixes: Sequence[Prefix]) -> Any:
    def lay(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        tokens = arguments[0]
        made = [each(tokens.float()) if callable(each) else each for each in prefixes]
        setattr(attention, PREFIXES, made)

    return lay


def _hand_on(tokens: Tensor, *_: Any, **__: Any) -> Tensor:
    return tokens


def _insert_after_first(prompt: Tensor) -> Any:
    def insert(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
        return torch.cat([tokens[:, :1], prompt.to(tokens.dtype), tokens[:, 1:]], dim=1)

    return insert


def load_backbone(settings: BackboneSettings, device: torch.device | str = "cpu") -> Backbone:
    """Load the frozen model, with accelerate where it is larger than the device.

    Raises InputError when its files are not there or transformers cannot build it.
    """
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    location = locate(settings.name)
    encoder = load_encoder(location, settings.max_length)
    arguments = _placement(location, settings, torch.device(device))
    dtype = getattr(torch, settings.dtype)
    disable_progress_bar()
    try:
        model = AutoModel.from_pretrained(location, dtype=dtype, **arguments)
    except (OSError, ValueError) as error:
        raise InputError(f"backbone.name: {settings.name!r} does not load: {error}") from error
    return Backbone(model, encoder, settings, settings.pooling or encoder.pooling)


def outline_backbone(settings: BackboneSettings) -> Backbone:
    """The backbone with its modules and without their numbers: enough to see whether things fit.

    Raises InputError as `load_backbone` does.
    """
    location = locate(settings.name)
    encoder = load_encoder(location, settings.max_length)
    return Backbone(_empty_model(location), encoder, settings, settings.pooling or encoder.pooling)


def _placement(location: str, settings: BackboneSettings, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained`: everything on the device, or spread by accelerate."""
    limit = _memory_limit(settings, device)
    if limit is None or _size_in_bytes(location, settings.dtype) <= limit:
        return {"device_map": {"": device}}
    first: int | str = (device.index or 0) if device.type == "cuda" else "cpu"
    return {
        "device_map": "auto",
        "max_memory": {first: limit} if first == "cpu" else {first: limit, "cpu": _host_memory()},
        "offload_folder": tempfile.mkdtemp(prefix="lamina-offload-"),
    }


def _memory_limit(settings: BackboneSettings, device: torch.device) -> int | None:
    if settings.max_memory_gb is not None:
        return int(settings.max_memory_gb * 2**30)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def _host_memory() -> int:
    from psutil import virtual_memory

    return int(virtual_memory().available * 0.9)


def _size_in_bytes(location: str, dtype: str) -> int:
    return _empty_model(location).num_parameters() * int(getattr(torch, dtype).itemsize)


def _empty_model(location: str) -> "PreTrainedModel":
    from accelerate import init_empty_weights
    from transformers import AutoModel

    with init_empty_weights():
        return AutoModel.from_config(config_of(location))
