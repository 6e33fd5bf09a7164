"""The cached prefix of a forward. What the frozen layers below an adapter compute is read from the
feature store, and the forward begins at the layer above them."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from lamina.backbones.architecture import Architecture
from lamina.backbones.cut import answering, ended_before, entered_at
from lamina.backbones.features import Compute, FeatureStore
from lamina.backbones.operations import counted, counting_as, is_counting
from lamina.backbones.overlay import Overlay
from lamina.backbones.unpadded import TokenPositions, padded, unpadded, unpadded_from
from lamina.core import ANSWER_AT, KEYS, Modality

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CachedPrefix:
    """The frozen layers of one model, read from a feature store. Where operations are counted, a
    cached result counts as the operations that it saves."""

    def __init__(
        self, model: "PreTrainedModel", architecture: Architecture, modality: Modality
    ) -> None:
        self._model = model
        self._architecture = architecture
        self._modality = modality
        self._prices: dict[Hashable, int] = {}
        self._may_begin: dict[int, bool] = {}

    @torch.no_grad()
    def features(
        self, store: FeatureStore | None, inputs: Mapping[str, Tensor], compute: Compute
    ) -> Tensor | None:
        """Features of the whole model, [N, dim], computed where they are not cached yet; None where
        they cannot be cached."""
        if store is None or KEYS not in inputs:
            return None
        keys = inputs[KEYS].cpu()
        return self._priced(
            self._architecture.num_layers,
            inputs,
            lambda: store.features(keys, self._moving(compute)),
        )

    @torch.no_grad()
    def tokens(
        self, store: FeatureStore | None, layer: int, inputs: Mapping[str, Tensor]
    ) -> Tensor | None:
        """The tokens that enter a layer, as `FeatureStore.tokens` has them. Where it pays, the
        outputs of the layer's query, key and value projections stand beside them. None where they
        cannot be cached."""
        if (
            store is None
            or KEYS not in inputs
            or self._architecture.stack is None
            or not 0 < layer < self._architecture.num_layers
        ):
            return None

        def entering(samples: Mapping[str, Tensor]) -> Tensor:
            with ended_before(self._stack, layer) as tokens:
                self._model(**_read(samples))
            return tokens[0]

        def projected(samples: Mapping[str, Tensor]) -> Tensor:
            tokens = entering(samples)
            read = self.read_by_attention(tokens, layer)
            return torch.cat([tokens, *(each(read) for each in self.projections(layer))], dim=-1)

        keys = inputs[KEYS].cpu()

        def find() -> Tensor | None:
            found = None
            if not self._may_begin_at(layer, inputs):
                return None
            if self._keeps_projections(store, layer):
                found = store.tokens(f"attention_{layer:02d}", keys, self._moving(projected))
            if found is None:
                found = store.tokens(f"layer_{layer:02d}", keys, self._moving(entering))
            return found

        return self._priced(layer, inputs, find)

    @torch.no_grad()
    def encoded(
        self, store: FeatureStore | None, start: int, inputs: Mapping[str, Tensor]
    ) -> Tensor | None:
        """The output of a frozen encoder for prompts, [N, S, dim], for a call whose first changed
        layer is `start`. None where the encoder is not frozen or its output cannot be cached."""
        if store is None or KEYS not in inputs or start < self._architecture.num_encoder_layers:
            return None
        encoder = self._model.get_encoder()
        asked = {name: inputs[name] for name in ("input_ids", "attention_mask")}

        def encode(samples: Mapping[str, Tensor]) -> Tensor:
            return encoder(**samples).last_hidden_state

        def price() -> int:
            row = self._on_device({name: each[:1] for name, each in asked.items()})
            key = ("encoder", row["input_ids"].shape)
            if key not in self._prices:
                self._prices[key] = counted(lambda: encode(row))[1]
            return 0 if kept is None else len(asked["input_ids"]) * self._prices[key]

        kept: Tensor | None = None
        with counting_as(price):
            kept = store.tokens("encoder", inputs[KEYS].cpu(), self._moving(encode))
        if kept is None:
            return None
        return padded(kept.to(self._model.device), asked["attention_mask"])

    @contextmanager
    def begun(
        self,
        layer: int,
        kept: Tensor | None,
        overlay: Overlay,
        arguments: Mapping[str, Tensor],
        positions: TokenPositions | None,
    ) -> Iterator[None]:
        """Inside, the model under an overlay begins at `layer` with the cached tokens `kept`, or at
        its first layer where there are none. `positions`: run without padding; they say where the
        tokens are."""
        if kept is None:
            if positions is None:
                yield
            elif positions.is_causal:
                with unpadded(positions):
                    yield
            else:
                with unpadded_from(self._stack.get_submodule("0"), positions):
                    yield
            return
        modules = self.projections(layer) if kept.shape[-1] > self._dim else []
        if not self._projects_what_enters(overlay, layer):
            kept, modules = kept[..., : self._dim], []
        if positions is not None:
            kept = kept[None]
        elif self._modality == "text":
            kept = padded(kept, arguments["attention_mask"])
        tokens, *given = kept.split([self._dim, *(each.out_features for each in modules)], dim=-1)
        answers: dict[nn.Module, Tensor] = dict(zip(modules, given, strict=True))
        answers |= self._unread_embeddings(arguments)
        with entered_at(self._stack, layer, tokens), answering(answers), unpadded(positions):
            yield

    def projections(self, layer: int) -> list[nn.Linear]:
        """Query, key and value of a layer's attention."""
        names = self._architecture.projections_of(layer)
        return [cast(nn.Linear, self._model.get_submodule(name)) for name in names]

    def read_by_attention(self, tokens: Tensor, layer: int) -> Tensor:
        """What the projections of a layer's attention read of tokens that enter the layer."""
        norms = self._architecture.norms_before_attention
        return self._model.get_submodule(norms[layer])(tokens) if norms else tokens

    @property
    def _stack(self) -> nn.Module:
        assert self._architecture.stack is not None
        return self._model.get_submodule(self._architecture.stack)

    @property
    def _dim(self) -> int:
        return self._architecture.width

    def _unread_embeddings(self, arguments: Mapping[str, Tensor]) -> dict[nn.Module, Tensor]:
        """Stand-ins for the output of a text model's embeddings, which no layer reads when the
        forward begins above them: zeros that take no memory."""
        embeddings = getattr(self._model, "embeddings", None)
        if self._modality != "text" or embeddings is None:
            return {}
        words = cast(nn.Embedding, self._model.get_input_embeddings()).weight
        shape = (*arguments["input_ids"].shape, words.shape[1])
        return {embeddings: words.new_zeros(()).expand(shape)}

    def _may_begin_at(self, layer: int, inputs: Mapping[str, Tensor]) -> bool:
        """Whether the model gives the same output for its first row when it begins at a layer with
        the tokens that had entered it. Layers of some models hand on more than tokens. Tried once
        per layer."""
        if layer not in self._may_begin:
            row = self._on_device({name: each[:1] for name, each in _read(inputs).items()})
            seen: list[Tensor] = []
            hook = self._stack.get_submodule(str(layer)).register_forward_pre_hook(
                lambda _, arguments: seen.append(arguments[0])
            )
            try:
                whole = self._model(**row).last_hidden_state
            finally:
                hook.remove()
            try:
                with (
                    entered_at(self._stack, layer, seen[0]),
                    answering(self._unread_embeddings(row)),
                ):
                    begun = self._model(**row).last_hidden_state
                same = begun.shape == whole.shape and torch.allclose(
                    begun.float(), whole.float(), rtol=1e-4, atol=1e-5
                )
            except Exception:  # Whatever such a model says to a layer that is skipped.
                same = False
            self._may_begin[layer] = same
        return self._may_begin[layer]

    def _moving(self, compute: Compute) -> Compute:
        """`compute` with its inputs moved to the model's device."""
        return lambda samples: compute(self._on_device(samples))

    def _on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self._model.device) for name, value in inputs.items()}

    def _keeps_projections(self, store: FeatureStore, layer: int) -> bool:
        """Whether to cache query, key and value as well: where reading them is faster than
        computing them (texts on a CPU) and there is room."""
        if (
            self._modality != "text"
            or self._model.device.type != "cpu"
            or self._architecture.norms_before_attention is None
            or self._architecture.is_fused
            or self._architecture.projects_positions
        ):
            return False
        numbers = self._dim + sum(each.out_features for each in self.projections(layer))
        return store.fits(numbers * self._model.dtype.itemsize)

    def _projects_what_enters(self, overlay: Overlay, layer: int) -> bool:
        """Whether the projections of a layer's attention read what enters the layer, under this
        overlay too. Where operations are counted they are to be run."""
        architecture = self._architecture
        projections = architecture.projections_of(layer)
        norms = architecture.norms_before_attention
        read = (*projections, norms[layer]) if norms else projections
        rewritten = {site.write for site in overlay.patches} - set(projections)
        return not is_counting() and not any(
            f"{module}.".startswith(f"{changed}.")
            for module in read
            for changed in (*overlay.input_patches, *rewritten)
        )

    def _priced(
        self, layer: int, inputs: Mapping[str, Tensor], find: Callable[[], Tensor | None]
    ) -> Tensor | None:
        """What `find` finds, on the model's device. Where operations are counted, it counts as the
        operations of all layers below `layer`."""
        kept: Tensor | None = None

        def price() -> int:
            return 0 if kept is None else self._price(layer, inputs)

        with counting_as(price):
            kept = find()
        return None if kept is None else kept.to(self._model.device)

    def _price(self, layer: int, inputs: Mapping[str, Tensor]) -> int:
        """The operations that the store saves a call that begins at a layer, with inputs of this
        shape. They are the same for every row."""
        row = self._on_device({name: each[:1] for name, each in _read(inputs).items()})
        key = (layer, *sorted((name, each.shape) for name, each in row.items()))
        if key not in self._prices:
            if layer == self._architecture.num_layers:
                self._prices[key] = counted(lambda: self._model(**row))[1]
            else:
                # What comes before the layers and after them is run whatever is kept.
                with ended_before(self._stack, layer):
                    below = counted(lambda: self._model(**row))[1]
                with ended_before(self._stack, 0):
                    outside = counted(lambda: self._model(**row))[1]
                self._prices[key] = below - outside
        num_rows = len(next(iter(inputs.values())))
        return num_rows * self._prices[key]


def _read(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that the model itself takes: without keys and the positions of answers."""
    return {name: each for name, each in inputs.items() if name not in (KEYS, ANSWER_AT)}
