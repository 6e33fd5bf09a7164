"""A frozen Hugging Face model: loaded once, never changed. Every call brings its own adapters as an
overlay; `forward.py` draws what one call does."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lamina.backbones.attention import attend_with_prefixes
from lamina.backbones.cached_prefix import CachedPrefix
from lamina.backbones.calls import Call, Gate, Hidden
from lamina.backbones.capabilities import Capabilities
from lamina.backbones.decoding import Choice
from lamina.backbones.encoding import Encoder
from lamina.backbones.features import FeatureStore
from lamina.backbones.forward import Forward
from lamina.backbones.generation import Generation
from lamina.backbones.inputs import ModelInputs
from lamina.backbones.language_head import LanguageHead, load_head
from lamina.backbones.overlay import KeysAndValues, Overlay
from lamina.backbones.packing import joined, taken_apart
from lamina.backbones.quantised import num_numbers
from lamina.backbones.read_architecture import read_architecture, widths
from lamina.backbones.settings import BackboneSettings, Pooling
from lamina.core import ANSWER_AT, DECODED, Batch, Modality, Samples, Stream
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
        self.settings = settings
        self.pooling = pooling
        self.device = model.device
        takes_prefixes = attend_with_prefixes(model)
        self.architecture = read_architecture(model)
        self.capabilities = Capabilities(
            model, self.architecture, encoder.modality, takes_prefixes, settings.max_length
        )
        self.inputs = ModelInputs(encoder, self.capabilities)
        self.features: FeatureStore | None = None
        """The cache of what frozen layers compute, where `keep_features` asked for it."""
        self._layers = CachedPrefix(model, self.architecture, encoder.modality)
        self._forward = Forward(model, self.capabilities, self._layers, pooling)
        self._gate: Gate | None = None
        self._num_asked = 0

    @property
    def modality(self) -> Modality:
        """What it reads."""
        return self.capabilities.modality

    @property
    def dim(self) -> int:
        """Width of a feature."""
        # OPT projects what leaves its last layer.
        width = getattr(self.model.config, "word_embed_proj_dim", None)
        return int(width or self.architecture.width)

    def keep_features(self, folder: Path, max_bytes: int) -> None:
        """Cache what the frozen layers compute of a stream's samples, in a folder of at most
        `max_bytes`. This holds for streams that are encoded from now on."""
        computes = f"{self.digest}/{self.pooling}/{self.device.type}/{torch.__version__}"
        name = sha256(computes.encode()).hexdigest()[:32]
        self.features = FeatureStore(folder, name, max_bytes)

    @cached_property
    def digest(self) -> str:
        """A sha256 of its weights: two backbones with one digest compute the same."""
        digest = sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            if self.settings.quantize is not None and hasattr(tensor, "dequantize"):
                tensor = tensor.dequantize()
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def num_parameters(self) -> int:
        """How many frozen numbers it holds."""
        return sum(map(num_numbers, self.model.parameters()))

    def shape_of(self, name: str) -> tuple[int, int]:
        """Input and output width of a linear module, or twice the width of a norm."""
        return widths(self.model.get_submodule(name))

    def keys_and_values(self, tokens: Tensor, layer: int) -> KeysAndValues:
        """The frozen keys and values of a layer for tokens [..., length, dim] that enter it.

        Raises InputError where it is not certain what the attention of this model reads.
        """
        self.capabilities.check_projections("backbone.name: tokens of a layer's own")
        # A copy: torch's counter of operations loses a view that enters a module in inference mode.
        read = self._layers.read_by_attention(tokens.to(self.model.dtype, copy=True), layer)
        _, key, value = self._layers.projections(layer)
        return key(read), value(read)

    @cached_property
    def language_head(self) -> LanguageHead:
        """The frozen head. Raises InputError where the model has none."""
        return load_head(self.model, self.settings.name)

    def encode(self, samples: Samples) -> Batch:
        """Texts or images as tensors that the model takes, padded to the longest."""
        return self.inputs.encode(samples)

    def encode_stream(self, stream: Stream[Samples]) -> Stream[Batch]:
        """The whole stream encoded, as `ModelInputs.encode_stream` says, and known to the feature
        store. Raises InputError for the wrong modality."""
        if stream.modality != self.modality:
            raise InputError(
                f"backbone.name: {self.settings.name!r} reads {self.modality}s, "
                f"but the stream {stream.name!r} is of {stream.modality}s"
            )
        return self.inputs.encode_stream(stream, self.features)

    def __call__(self, inputs: Mapping[str, Tensor], overlay: Overlay | None = None) -> Hidden:
        """Run the model on N inputs under an overlay.

        The gradient reaches the overlay's tensors. What the frozen layers below the overlay compute
        is read from the feature store, where there is one that knows the inputs.
        """
        call = Call(inputs, overlay or Overlay())
        self._num_asked += call.num_rows
        is_bare = self.architecture.frozen_below(call.overlay) == self.architecture.num_layers
        if is_bare and ANSWER_AT not in inputs and DECODED not in inputs:
            features = self._kept_features(inputs)
            if features is not None:
                return Hidden(features, None)
        return self.run(call) if self._gate is None else self._gate.run(call)

    @torch.no_grad()
    def frozen_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features [N, dim] of the model without an overlay. Where answers are tokens, they are
        features of the prompt alone."""
        features = self._kept_features(inputs)
        if features is None:
            return self(inputs).features
        self._num_asked += len(features)
        return features

    def _kept_features(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """`frozen_features` from the feature store; None where it does not keep them."""
        return self._layers.features(self.features, inputs, self._bare)

    @torch.no_grad()
    def generate(
        self,
        inputs: Mapping[str, Tensor],
        overlay: Overlay | None = None,
        *,
        max_new_tokens: int,
        choose: Choice | None = None,
    ) -> Tensor:
        """Generate tokens behind the prompts of N inputs under an overlay, int64 [N, L] with L <=
        `max_new_tokens`. The end token is part of an answer, and IGNORED follows it. `choose` picks
        each token from the logits; by default it is the likeliest.

        Raises InputError where the model has no language head.
        """
        call = Call(inputs, overlay or Overlay(), max_new_tokens, choose)
        hidden = self.run(call) if self._gate is None else self._gate.run(call)
        assert hidden.generated is not None
        return hidden.generated

    def gradients(
        self, loss: Tensor, tensors: Sequence[Tensor], *, keep: bool
    ) -> Sequence[Tensor | None]:
        """The gradient of a scalar with respect to each tensor; None where it does not depend on
        it. `keep`: retain the graph, for another backward through it."""
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
        """Inside, calls are neither handed to the gate nor packed with others, because only their
        caller goes back through their graph. `whole`: they also run from the first layer on, so
        that all their work is counted."""
        features, gate = self.features, self._gate
        self.features, self._gate = (None if whole else features), None
        try:
            yield
        finally:
            self.features, self._gate = features, gate

    def run(self, call: Call) -> Hidden:
        """Run a call now, without the gate: a forward, or generation where the call asks for
        tokens."""
        if call.max_new_tokens:
            generation = Generation(self._forward, self.language_head, self.inputs.end_token)
            return generation.run(call, self.features)
        return self._forward.execute(self._forward.plan(call, self.features))

    def run_together(self, calls: Sequence[Call]) -> list[Hidden]:
        """`run` for calls that meet, in one forward: each sees its own rows and overlay."""
        together = joined(calls, stack=self.device.type != "cpu")
        return taken_apart(self.run(together), calls)

    @contextmanager
    def counting_rows(self) -> Iterator[Callable[[], int]]:
        """Counts rows: calling what is given returns how many rows were asked for inside, whether
        they were cached or run."""
        before = self._num_asked
        yield lambda: self._num_asked - before

    def _bare(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features [N, dim] of the model with nothing laid over it."""
        return self.run(Call(inputs, Overlay())).features
