"""A frozen Hugging Face encoder: loaded once, never changed; every call brings its own adapters as
an overlay.

One forward is planned first (`Backbone.plan`), and then executed:

    inputs + overlay
        |
        +-- start: the first layer that the overlay changes
        +-- cached: what enters that layer, from the feature store, if it is kept there
        +-- positions: where tokens are, if the texts can do without padding
        +-- prompt: tokens before the input's; text arguments follow from it
        v
    ForwardPlan
        |      embeddings -> layer 0 .. start - 1 -> layer start .. last -> pooling -> Hidden
        |      `------- skipped if cached ------'    `- under the overlay -'
        v
    Hidden
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lamina.backbones.architecture import read_architecture, widths
from lamina.backbones.attention import NAME as ATTENTION
from lamina.backbones.attention import attend_with_prefixes
from lamina.backbones.cached_prefix import CachedPrefix
from lamina.backbones.decoding import (
    Choice,
    decoded,
    decoded_by_decoder,
    left_padded,
    likeliest,
)
from lamina.backbones.encoding import Encoder, TextEncoder
from lamina.backbones.features import FeatureStore
from lamina.backbones.hooks import laid_over
from lamina.backbones.language_head import LanguageHead, load_head
from lamina.backbones.operations import is_counting
from lamina.backbones.overlay import (
    KeysAndValues,
    Overlay,
    StandIn,
    rows_of,
)
from lamina.backbones.packing import added_by, are_shared, packed
from lamina.backbones.quantised import Quantisation, num_numbers
from lamina.backbones.unpadded import TokenPositions, spread
from lamina.core import (
    ANSWER_AT,
    DECODED,
    DECODED_MASK,
    IGNORED,
    KEYS,
    AnswerKind,
    Batch,
    Experience,
    LazyInput,
    Modality,
    Samples,
    Stream,
)
from lamina.registry import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooling = Literal["mean", "first"]
OF_DECODER = (DECODED, DECODED_MASK)
Tower = Literal["text", "vision", "encoder", "both"]

INSTEAD = "allowed: adapter.kind 'lora', 'bottleneck', 'bias', 'layernorm' ..."
POSITIONS = ("position_embeddings", "position_embedding", "embed_positions", "wpe")
"""How models call the embedding of positions."""
GRID_BIASES = ("use_relative_position_bias", "use_shared_relative_position_bias")
"""Settings of vision transformers whose attention adds a number per pair of places in the image."""
POSITIONS_ARE_EMBEDDED = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
"""Encoders whose layers know a token's place from its embedding alone."""
POSITIONS_ARE_GIVEN = (
    *("gemma", "gpt2", "gpt_neox", "llama", "mistral"),
    *("opt", "phi", "phi3", "qwen2", "qwen3"),
)
"""Causal models that know a token's place from the `position_ids` that they are given."""


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


@dataclass(frozen=True)
class Hidden:
    """What a backbone says of N inputs."""

    features: Tensor
    """float32 [N, dim]: the tokens pooled, prompts left out."""
    prompts: Tensor | None
    """float32 [N, dim]: the mean over the prompts' output tokens, where there are prompts."""
    answers: Tensor | None = None
    """float32 [N, A, dim]: the tokens from which each token of the answer is predicted, where
    answers are tokens. What follows a shorter answer is of no account."""
    said: Tensor | None = None
    """int64 [N, L]: the tokens that were generated behind the prompts, where that was asked for."""


@dataclass(frozen=True)
class Call:
    """N inputs under an overlay."""

    inputs: Mapping[str, Tensor]
    overlay: Overlay
    most: int = 0
    """How many tokens may be generated behind the prompts; 0: the inputs are read and no more."""
    choose: "Choice | None" = None
    """How the next token is chosen; None: the likeliest."""
    limits: Tensor | None = None
    """int64 [N], the same as `most` of each row, where rows may say different numbers of tokens."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(next(iter(self.inputs.values())))

    def most_of_rows(self) -> Tensor:
        """How many tokens each row may say, int64 [N] on the device of the inputs."""
        if self.limits is not None:
            return self.limits
        first = next(iter(self.inputs.values()))
        return first.new_full((self.num_rows,), self.most, dtype=torch.int64)


@dataclass(frozen=True)
class ForwardPlan:
    """What one forward does, decided before anything runs."""

    start: int
    """The layer at which it begins if there is `cached`: the first that the overlay changes."""
    cached: Tensor | None
    """What enters that layer, as `CachedPrefix.tokens` gives it; None: all layers run."""
    positions: TokenPositions | None
    """Where the tokens of texts are; None: texts go through padded."""
    prompt: Tensor | None
    """Tokens [N, length, word width] before the input's, or behind an image's CLS."""
    arguments: Mapping[str, Tensor]
    """What the model's forward is given."""
    mask: Tensor | None
    """1 at the input's own tokens, [N, S]."""
    answer_at: Tensor | None
    """Of each row, how many of its tokens come before its answer, [N]: they alone are pooled."""
    overlay: Overlay

    @property
    def num_prompts(self) -> int:
        """Tokens of the prompt."""
        return 0 if self.prompt is None else self.prompt.shape[1]


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
        self._accepts = frozenset(signature(model.forward).parameters)
        """What the model's forward may be given, by name."""
        self._layers = CachedPrefix(model, self.architecture, encoder.modality)
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
        """Width of a feature."""
        # OPT projects what leaves its last layer.
        width = getattr(self.model.config, "word_embed_proj_dim", None)
        return int(width or self.architecture.width)

    @property
    def word_width(self) -> int:
        """Width of a token that enters the model, and so of a prompt: of a text's embeddings, or
        of an image's tokens before the first layer."""
        if self.modality == "image":
            return self.architecture.width
        return int(self.word_embeddings.weight.shape[1])

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The embedding of a text model's tokens."""
        return cast(nn.Embedding, self.model.get_input_embeddings())

    @property
    def num_heads(self) -> int:
        """Heads of a layer's attention. Raises InputError where layers differ or have none."""
        heads = getattr(self.model.config, "num_attention_heads", None)
        if not isinstance(heads, int):
            raise InputError(
                f"backbone.name: a {self.model_type!r} model has no one number of heads"
            )
        return heads

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest text; None for images."""
        return getattr(self.encoder, "max_length", None)

    @cached_property
    def num_first(self) -> int:
        """Tokens of an image before which no prompt stands: 1, the CLS, where the model has one."""
        names = (name for name, _ in self.model.named_parameters())
        return int(any(name.endswith(("cls_token", "class_embedding")) for name in names))

    @property
    def counts_prefixes(self) -> bool:
        """Whether a prefix takes the first positions of a text, as keys and values that the model
        has cached do, and so PEFT's prefixes."""
        return {"past_key_values", "position_ids"} <= self._accepts

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

    def check_prefixes(self, key: str) -> None:
        """Raise InputError, beginning with `key`, where no keys and values can be put before those
        of the layers."""
        architecture = self.architecture
        if not self.takes_prefixes:
            why = "transformers' code of its attention takes no keys and values from outside"
        elif not architecture.attentions:
            why = "the projections of its attention are not found"
        elif architecture.num_layers < getattr(self.model.config, "num_hidden_layers", 0):
            why = "its depths share one layer, so no depth can have a prefix of its own"
        elif architecture.is_hierarchical:
            why = "its layers see windows of an image, and differ in width"
        else:
            return
        raise InputError(
            f"{key} cannot reach the attention of a {self.model_type!r} backbone: {why} ({INSTEAD})"
        )

    def check_prompts(self, length: int, key: str) -> None:
        """Raise InputError, beginning with `key`, where no tokens can be put before the input's, or
        not so many."""
        architecture, config = self.architecture, self.model.config
        why = None
        if self.modality == "text":
            if "inputs_embeds" not in self._accepts:
                why = "transformers' code of it takes no embeddings"
        elif architecture.is_hierarchical or not architecture.attentions:
            why = "its tokens form a grid"
        elif architecture.rotates_keys or any(getattr(config, name, False) for name in GRID_BIASES):
            why = "its attention knows tokens by their place in the image"
        if why is not None:
            raise InputError(
                f"{key} cannot enter a {self.model_type!r} backbone: {why} ({INSTEAD})"
            )
        self.check_positions(length, key)

    def check_positions(self, added: int, key: str, length: int | None = None) -> None:
        """Raise InputError, beginning with `key`, where the model knows too few positions for texts
        of `length` tokens and `added` more. `length`: by default the longest that the job asked
        for; where it did not ask, texts are looked at when they come."""
        known, longest = num_positions(self.model), length or self.settings.max_length
        if known is not None and longest is not None and longest + added > known:
            raise InputError(
                f"{key} adds {added} positions to texts of {longest} tokens, and a "
                f"{self.model_type!r} backbone has {known} (backbone.max_length: {known - added} "
                "at most)"
            )

    def keys_and_values(self, tokens: Tensor, layer: int) -> KeysAndValues:
        """The frozen keys and values of a layer for tokens [..., length, dim] that enter it.

        Raises InputError where it is not certain what the attention of this model reads.
        """
        self.check_projections("backbone.name: tokens of a layer's own")
        # A copy: torch's counter of operations loses a view that enters a module in inference mode.
        read = self._layers.read_by_attention(tokens.to(self.model.dtype, copy=True), layer)
        _, key, value = self._layers.projections(layer)
        return key(read), value(read)

    def check_projections(self, key: str) -> None:
        """Raise InputError, beginning with `key`, where keys and values are not simply what a layer
        projects of a token."""
        architecture = self.architecture
        self.check_prefixes(key)
        if architecture.is_fused:
            why = f"{architecture.projections[0]!r} computes query, key and value together"
        elif architecture.rotates_keys:
            why = "its attention changes keys by their position after they are projected"
        elif architecture.norms_before_attention is None:
            why = "what its attention reads is unknown"
        else:
            return
        raise InputError(
            f"{key} cannot be projected by a {self.model_type!r} backbone: {why} ({INSTEAD})"
        )

    def check_answers(self, answers: AnswerKind) -> None:
        """Raise InputError where the model cannot give such answers."""
        architecture = self.architecture
        if answers == "classes" and architecture.has_decoder:
            raise InputError(
                f"backbone.tower: 'both' is for answers of tokens, and the encoder of a "
                f"{self.model_type!r} model knows classes (allowed: encoder)"
            )
        if answers == "classes" or architecture.has_decoder:
            return
        if self.modality == "text" and getattr(self.model.config, "is_encoder_decoder", False):
            raise InputError(
                f"backbone.tower: the encoder of a {self.model_type!r} model cannot answer in "
                "tokens (allowed: both, with its decoder)"
            )
        if self.modality != "text" or not architecture.is_causal:
            raise InputError(
                f"backbone.name: a {self.model_type!r} model cannot answer in tokens (allowed: "
                "causal language models, as 'smollm2', and those with encoder and decoder)"
            )

    def encode(self, samples: Samples) -> Batch:
        """Texts or images as tensors that the model takes, padded to the longest."""
        self.check_answers("classes" if samples.targets is None else "tokens")
        if samples.targets is not None:
            return self._encode_answers(samples, self.encoder)
        inputs = self.encoder(samples.values)
        read = {name: value for name, value in inputs.items() if self._reads(name)}
        made = {name: value for name, value in read.items() if isinstance(value, Tensor)}
        lazy = {name: value for name, value in read.items() if isinstance(value, LazyInput)}
        return Batch(made, samples.labels, samples.ids, lazy=lazy)

    def _encode_answers(self, samples: Samples, encoder: Encoder) -> Batch:
        assert samples.targets is not None
        assert isinstance(encoder, TextEncoder)
        ids = samples.ids.tolist()
        if self.architecture.has_decoder:
            first = self.decoder_start
            inputs, labels = encoder.with_decoded(samples.values, samples.targets, first, ids)
            return Batch(inputs, labels, samples.ids)
        inputs, labels = encoder.with_answers(samples.values, samples.targets, ids)
        read = {n: each for n, each in inputs.items() if n == ANSWER_AT or self._reads(n)}
        return Batch(read, labels, samples.ids)

    def encode_prompts(self, prompts: Sequence[str], most: int) -> dict[str, Tensor]:
        """Inputs of N prompts without answers, which may get `most` tokens each at most. Raises
        InputError where these leave no room for a prompt, and where the model gives no answers."""
        assert isinstance(self.encoder, TextEncoder)
        # A decoder says its answer apart from what the encoder reads.
        room = self.encoder.max_length - (1 if self.architecture.has_decoder else most)
        if room < 1:
            raise InputError(
                f"backbone.max_length: {self.encoder.max_length} leaves no room for a prompt "
                f"beside an answer of {most} tokens"
            )
        # The end token alone stands for an answer.
        encoder = replace(self.encoder, max_length=room + 1)
        nothing = torch.zeros(len(prompts), dtype=torch.int64)
        samples = Samples(prompts, nothing, torch.arange(len(prompts)), [""] * len(prompts))
        return dict(self._encode_answers(samples, encoder).inputs)

    @property
    def end_token(self) -> int:
        """The token that ends an answer."""
        assert isinstance(self.encoder, TextEncoder)
        return int(self.encoder.tokenizer.eos_token_id)

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a piece of text, without special ones."""
        assert isinstance(self.encoder, TextEncoder)
        found: list[int] = self.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def texts_of(self, answers: Tensor) -> list[str]:
        """Answers int64 [N, A] in words, without what is IGNORED and without special tokens."""
        assert isinstance(self.encoder, TextEncoder)
        rows = [row[row != IGNORED].tolist() for row in answers.cpu()]
        return [self.encoder.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    def token_logits(self, answers: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits [N, A, V] of the next token after each of `answers` [N, A, dim] to these inputs,
        by the frozen head that the language model came with. Behind a shorter answer its last ones
        stand again, which give no gradient. Where operations are counted, padding counts as any
        token."""
        columns = torch.arange(answers.shape[1], device=answers.device)
        counted = (columns < _answer_lengths(inputs)[:, None]).flatten()
        if is_counting() or counted.all():
            return self.language_head(answers)
        at = counted.nonzero()[:, 0]
        logits = self.language_head(answers.flatten(0, 1).index_select(0, at))
        return spread(logits, counted.cumsum(0) - 1, at).unflatten(0, answers.shape[:2])

    @property
    def decoder_start(self) -> int:
        """The token that a decoder reads first."""
        config = self.model.config
        start = getattr(config, "decoder_start_token_id", None)
        return int(config.bos_token_id if start is None else start)

    @cached_property
    def language_head(self) -> "LanguageHead":
        """The frozen head. Raises InputError where the model has none."""
        return load_head(self.model, self.settings.name)

    def _reads(self, name: str) -> bool:
        """Whether the model has a use for an input that its tokenizer makes. GPT-2 would add the
        embedding of a word for token types, which it does not have."""
        has_types = getattr(self.model.config, "type_vocab_size", 0) > 0
        return name in self._accepts and (has_types or name != "token_type_ids")

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
        is_bare = self.frozen_below(call.overlay) == self.architecture.num_layers
        if is_bare and ANSWER_AT not in inputs and DECODED not in inputs:
            features = self._kept_features(inputs)
            if features is not None:
                return Hidden(features, None)
        return self.run(call) if self._gate is None else self._gate.run(call)

    @torch.no_grad()
    def frozen_features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features [N, dim] with nothing laid over the model; where answers are tokens, of what is
        asked alone."""
        features = self._kept_features(inputs)
        if features is None:
            return self(inputs).features
        self._num_asked += len(features)
        return features

    def _kept_features(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """The same from the feature store; None where it does not keep them."""
        return self._layers.features(self.features, inputs, self._bare)

    @torch.no_grad()
    def generate(
        self,
        inputs: Mapping[str, Tensor],
        overlay: Overlay | None = None,
        *,
        most: int,
        choose: Choice | None = None,
    ) -> Tensor:
        """Tokens that are said behind the prompts of N inputs under an overlay, int64 [N, L] with L
        <= `most`; the end token is part of an answer, and IGNORED follows it. Each is chosen of the
        logits by `choose`, by default the likeliest.

        Raises InputError where the model has no head of words.
        """
        call = Call(inputs, overlay or Overlay(), most, choose)
        said = (self.run(call) if self._gate is None else self._gate.run(call)).said
        assert said is not None
        return said

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
        """Inside, every call runs here and now and with nobody else's, because only its caller goes
        back through its graph. `whole`: and from the first layer on, for its work to be counted."""
        features, gate = self.features, self._gate
        self.features, self._gate = (None if whole else features), None
        try:
            yield
        finally:
            self.features, self._gate = features, gate

    def run(self, call: Call) -> Hidden:
        """What `__call__` says, or `generate`, here and now."""
        return self._decode(call) if call.most else self._execute(self.plan(call))

    def plan(self, call: Call) -> ForwardPlan:
        """What a forward for a call will do. Reads the feature store, and fills it where it
        should hold these inputs and does not yet."""
        overlay = call.overlay
        own = (KEYS, ANSWER_AT)
        arguments = {name: value for name, value in call.inputs.items() if name not in own}
        prompts = [rows_of(prompt, call.num_rows) for prompt in overlay.prompts]
        prompt = torch.cat(prompts, dim=1) if prompts else None
        start = self.frozen_below(overlay)
        if self.architecture.has_decoder:
            cached = self._layers.encoded(self.features, start, call.inputs)
        else:
            cached = self._layers.tokens(self.features, start, call.inputs)
        if self.modality == "text":
            arguments = self._text_arguments(arguments, prompt, overlay.position_shift)
        positions = self._positions_without_padding(overlay, arguments)
        if positions is not None and positions.is_causal:
            arguments = self._as_one_row(arguments, positions)
        mask = call.inputs.get("attention_mask")
        answer_at = call.inputs.get(ANSWER_AT)
        return ForwardPlan(start, cached, positions, prompt, arguments, mask, answer_at, overlay)

    def _execute(self, plan: ForwardPlan) -> Hidden:
        if self.architecture.has_decoder:
            return self._both_halves(plan)
        overlay = plan.overlay
        model = self.model if overlay.stand_in is None else overlay.stand_in.module
        embedded = plan.prompt if self.modality == "image" else None
        with (
            laid_over(model, self.architecture, overlay, embedded, self.num_first),
            self._layers.begun(plan.start, plan.cached, overlay, plan.arguments, plan.positions),
        ):
            tokens = self._run(plan.arguments, overlay.stand_in).last_hidden_state
        if plan.positions is not None and plan.mask is not None:
            padded = plan.positions.within(tokens)
            tokens = padded[:, : plan.num_prompts + plan.mask.shape[1]]
        if plan.answer_at is None or plan.mask is None:
            return self._pooled(tokens, plan.mask, plan.num_prompts)
        columns = torch.arange(plan.mask.shape[1], device=plan.mask.device)
        asked = plan.mask * (columns < plan.answer_at[:, None])
        hidden = self._pooled(tokens, asked, plan.num_prompts)
        before = answer_positions(plan.mask, plan.answer_at) + plan.num_prompts
        index = before[:, :, None].expand(-1, -1, tokens.shape[2])
        return replace(hidden, answers=tokens.gather(1, index).float())

    def _both_halves(self, plan: ForwardPlan) -> Hidden:
        """A forward of encoder and decoder; of the decoder alone, where the encoder's output is
        kept."""
        overlay = plan.overlay
        arguments: dict[str, Any] = dict(plan.arguments)
        model = self.model if overlay.stand_in is None else overlay.stand_in.module
        if plan.cached is not None:
            from transformers.modeling_outputs import BaseModelOutput

            del arguments["input_ids"]
            arguments["encoder_outputs"] = BaseModelOutput(plan.cached)
        with laid_over(model, self.architecture, overlay, None, 0):
            output = self._run(arguments, overlay.stand_in)
        hidden = self._pooled(output.encoder_last_hidden_state, plan.mask, plan.num_prompts)
        return replace(hidden, answers=output.last_hidden_state.float())

    def _decode(self, call: Call) -> Hidden:
        """Prompts first, then padding, then the text: so a prompt is in the same place for all."""
        if self.architecture.has_decoder:
            return self._decode_by_decoder(call)
        overlay, model, choose = call.overlay, self.model, call.choose or likeliest
        texts = left_padded(call.inputs)
        given = [rows_of(each, call.num_rows) for each in overlay.prompts]
        prompt = torch.cat(given, dim=1) if given else None
        shift = overlay.position_shift if self.counts_prefixes else 0
        places = "position_ids" in self._accepts
        # A prefix that is computed of the tokens depends on all of them.
        computed = any(callable(each) for own in overlay.prefixes.values() for each in own)

        def forward(arguments: Mapping[str, Any]) -> Tensor:
            return cast(Tensor, self._run(arguments, overlay.stand_in).last_hidden_state)

        stood_in = model if overlay.stand_in is None else overlay.stand_in.module
        with laid_over(stood_in, self.architecture, overlay, None, self.num_first):
            said, tokens = decoded(
                forward,
                lambda hidden: choose(self.language_head(hidden)),
                self._text_arguments(dict(texts), prompt, 0),
                most=call.most_of_rows(),
                end=self.end_token,
                first_position=first_position(model) + shift if places else None,
                cache=None if computed else self._new_cache(),
                embed=self.word_embeddings,
            )
        length = 0 if prompt is None else prompt.shape[1]
        return replace(self._pooled(tokens, texts["attention_mask"], length), said=said)

    def _decode_by_decoder(self, call: Call) -> Hidden:
        """The encoder reads the prompts, and the decoder says one token after the other."""
        overlay, choose = call.overlay, call.choose or likeliest
        plan = self.plan(replace(call, inputs=_prompts_of(call.inputs)))
        model = self.model if overlay.stand_in is None else overlay.stand_in.module
        with laid_over(model, self.architecture, overlay, None, 0):
            said, encoded = decoded_by_decoder(
                lambda arguments: self._run(arguments, overlay.stand_in),
                lambda hidden: choose(self.language_head(hidden)),
                plan.arguments,
                call.inputs[DECODED][:, :1],
                most=call.most_of_rows(),
                end=self.end_token,
                cache=self._new_cache(),
            )
        return replace(self._pooled(encoded, plan.mask, plan.num_prompts), said=said)

    def _new_cache(self) -> Any:
        """Where transformers keeps keys and values of one generation."""
        from transformers import DynamicCache, EncoderDecoderCache

        config = self.model.config
        if self.architecture.has_decoder:
            return EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
        return DynamicCache(config=config)

    def meeting(self, call: Call) -> Hashable | None:
        """Calls that this is the same of can be run together; None where one only runs alone.

        Texts meet where they are padded to one length: padding further would round differently.
        """
        added = added_by(call.overlay)
        if added is None or call.choose is not None:
            return None
        if self.architecture.projects_positions and not call.overlay.is_empty:
            return None
        shapes = {name: value.shape[1:] for name, value in call.inputs.items()}
        shape = tuple(sorted(shapes.items()))
        start = self.frozen_below(call.overlay)
        return added, shape, start, torch.is_grad_enabled(), call.most > 0

    def run_together(self, calls: Sequence[Call]) -> list[Hidden]:
        """`run` for calls that meet, in one forward: each sees its own rows and overlay."""
        sizes = [call.num_rows for call in calls]
        inputs = {
            name: torch.cat([call.inputs[name] for call in calls]) for name in calls[0].inputs
        }
        overlays = [call.overlay for call in calls]
        stack = self.device.type != "cpu"
        overlay = packed(overlays, sizes, stack=stack)
        most = max(call.most for call in calls)
        limits = torch.cat([call.most_of_rows() for call in calls]) if most else None
        hidden = self.run(Call(inputs, overlay, most, limits=limits))
        nothing = [None] * len(sizes)
        prompts = nothing if hidden.prompts is None else hidden.prompts.split(sizes)
        answers = nothing if hidden.answers is None else hidden.answers.split(sizes)
        said = nothing if hidden.said is None else map(_cut, hidden.said.split(sizes))
        return [
            Hidden(
                features,
                prompt,
                None if answer is None else answer[:, : int(_answer_lengths(call.inputs).max())],
                own,
            )
            for features, prompt, answer, own, call in zip(
                hidden.features.split(sizes), prompts, answers, said, calls, strict=True
            )
        ]

    def _encode_known(self, samples: Samples) -> Batch:
        """Encoded, and known to the feature store."""
        batch = self.encode(samples)
        inputs: dict[str, Tensor | LazyInput] = {**batch.inputs, **batch.lazy}
        if self.architecture.has_decoder:  # What is kept is the encoder's, and a prompt's.
            inputs = {name: each for name, each in inputs.items() if name not in OF_DECODER}
        keys = None if self.features is None else self.features.register(inputs)
        return batch if keys is None else replace(batch, inputs={**batch.inputs, KEYS: keys})

    def frozen_below(self, overlay: Overlay) -> int:
        """How many layers lie below everything that is laid over: all where nothing is."""
        architecture = self.architecture
        if overlay.stand_in is not None or overlay.prompts or overlay.position_shift:
            return 0
        modules = {*overlay.input_patches}
        for site in overlay.patches:
            modules |= {site.read, site.write}
        layers = [*overlay.prefixes, *(architecture.layer_of(module) for module in modules)]
        return min(layers, default=architecture.num_layers)

    def _bare(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Features [N, dim] of the model with nothing laid over it."""
        return self.run(Call(inputs, Overlay())).features

    def _positions_without_padding(
        self, overlay: Overlay, arguments: Mapping[str, Tensor]
    ) -> TokenPositions | None:
        """Where the tokens of texts are, if this forward can do without padding and gains by it:
        under an adapter (features of the bare backbone are cached), if all that is laid over treats
        tokens alike. Where operations are counted, padding counts as any token."""
        mask = arguments.get("attention_mask")
        added = added_by(overlay)
        patches = (*overlay.patches.values(), *overlay.input_patches.values())
        is_adapted = bool(patches or overlay.prefixes or overlay.prompts)
        if mask is None or added is None or not is_adapted or is_counting():
            return None
        if not self._may_drop_padding or not all(map(are_shared, patches)):
            return None
        is_causal = self.model_type in POSITIONS_ARE_GIVEN
        window = getattr(self.model.config, "sliding_window", None) or mask.shape[1]
        if is_causal and (mask.shape[1] > window or not mask[:, 0].all()):
            return None
        return TokenPositions.of(mask, max(added.prefixes, default=0), is_causal=is_causal)

    @cached_property
    def _may_drop_padding(self) -> bool:
        """Whether a token's position is in its embedding or is given, attention goes through
        Lamina's own function, and the device is a CPU."""
        config = self.model.config
        is_encoder = not getattr(config, "is_decoder", False)
        return (
            (
                self.model_type in POSITIONS_ARE_GIVEN
                or (self.model_type in POSITIONS_ARE_EMBEDDED and is_encoder)
            )
            and config._attn_implementation == ATTENTION
            and self.device.type == "cpu"
        )

    def _as_one_row(
        self, arguments: Mapping[str, Tensor], positions: TokenPositions
    ) -> dict[str, Tensor]:
        """The tokens of all texts one after the other, [1, T], with the position of each in its
        text."""
        mask = arguments["attention_mask"]
        columns = torch.arange(mask.shape[1], device=mask.device) + first_position(self.model)
        places = arguments.get("position_ids", columns.expand(mask.shape))
        tokens = {
            name: positions.without(arguments[name])
            for name in ("input_ids", "inputs_embeds")
            if name in arguments
        }
        return {
            **tokens,
            "position_ids": positions.without(places),
            "attention_mask": positions.visible,
        }

    @contextmanager
    def counting_rows(self) -> Iterator[Callable[[], int]]:
        """How many rows it has been asked about inside, kept or run, by a call of what is given."""
        before = self._num_asked
        yield lambda: self._num_asked - before

    def _run(self, arguments: Mapping[str, Any], stand_in: StandIn | None) -> Any:
        # Language models copy keys and values for the next token, unless they are told not to.
        given = {"use_cache": False} if "use_cache" in self._accepts else {}
        given |= arguments
        if stand_in is None:
            return self.model(**given)
        return functional_call(stand_in.module, dict(stand_in.tensors), kwargs=given)

    def _text_arguments(
        self, arguments: dict[str, Tensor], prompt: Tensor | None, position_shift: int
    ) -> dict[str, Tensor]:
        ids = arguments["input_ids"]
        shift = position_shift if self.counts_prefixes else 0
        added = shift + (0 if prompt is None else prompt.shape[1])
        if added:
            self.check_positions(added, "adapter: what it puts before a text", ids.shape[1])
        if shift:
            start = shift + first_position(self.model)
            positions = torch.arange(ids.shape[1], device=ids.device) + start
            arguments["position_ids"] = positions[None].expand(ids.shape)
        if prompt is not None:
            words = self.model.get_input_embeddings()(arguments.pop("input_ids"))
            arguments["inputs_embeds"] = torch.cat([prompt.to(words.dtype), words], dim=1)
            for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
                if name in arguments:
                    padding = (prompt.shape[1], 0)
                    arguments[name] = nn.functional.pad(arguments[name], padding, value=value)
        return arguments

    def _pooled(self, tokens: Tensor, mask: Tensor | None, num_prompts: int) -> Hidden:
        """Prompts come first in a text; in an image they follow the CLS, where there is one."""
        tokens = tokens.float()
        if tokens.dim() == 4:  # A grid [N, dim, height, width].
            tokens = tokens.flatten(2).transpose(1, 2)
        start = 0 if self.modality == "text" else self.num_first
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


def answer_positions(mask: Tensor, answer_at: Tensor) -> Tensor:
    """int64 [N, A]: the columns of the tokens that the tokens of each answer are predicted from,
    the last one of the prompt first. A is that of the longest answer; of others the last column is
    repeated."""
    starts = (mask.cumsum(dim=1) == 0).sum(dim=1)
    lengths = mask.sum(dim=1) - answer_at
    steps = torch.arange(int(lengths.max()), device=mask.device)
    steps = torch.minimum(steps[None], (lengths - 1)[:, None])
    return (starts + answer_at - 1)[:, None] + steps


def _cut(said: Tensor) -> Tensor:
    """As long as the longest answer is that these rows gave."""
    return said[:, : int((said != IGNORED).sum(dim=1).max())]


def _prompts_of(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What an encoder reads."""
    return {name: each for name, each in inputs.items() if name not in (*OF_DECODER, KEYS)}


def _answer_lengths(inputs: Mapping[str, Tensor]) -> Tensor:
    """int64 [N]: tokens of each answer."""
    if DECODED_MASK in inputs:
        return inputs[DECODED_MASK].sum(dim=1)
    return inputs["attention_mask"].sum(dim=1) - inputs[ANSWER_AT]


def num_positions(model: nn.Module) -> int | None:
    """How many positions of tokens a model has learned; None where it computes them."""
    found = _positions(model)
    return None if found is None else found.num_embeddings - first_position(model)


def first_position(model: nn.Module) -> int:
    """The number that a model gives to the first token of a text."""
    found = _positions(model)
    # RoBERTa and its kin count from behind the number of their padding.
    return 0 if found is None or found.padding_idx is None else found.padding_idx + 1


def _positions(model: nn.Module) -> nn.Embedding | None:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in POSITIONS:
            return module
    return None
