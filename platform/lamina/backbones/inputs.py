"""From samples to the inputs of one model, and from the tokens that it gives back to texts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lamina.backbones.answers import OF_DECODER
from lamina.backbones.capabilities import Capabilities
from lamina.backbones.encoding import Encoder, TextEncoder
from lamina.backbones.features import FeatureStore
from lamina.core import (
    ANSWER_AT,
    IGNORED,
    KEYS,
    Batch,
    Experience,
    LazyInput,
    Samples,
    Stream,
)
from lamina.registry import InputError


@dataclass(frozen=True)
class ModelInputs:
    """What a tokenizer or an image processor makes, as far as one model reads it."""

    encoder: Encoder
    capabilities: Capabilities

    def encode(self, samples: Samples) -> Batch:
        """Texts or images as tensors that the model takes, padded to the longest."""
        self.capabilities.check_answers("classes" if samples.targets is None else "tokens")
        if samples.targets is not None:
            return self._encode_answers(samples, self._texts)
        inputs = self.encoder(samples.values)
        read = {n: each for n, each in inputs.items() if self.capabilities.reads(n)}
        made = {name: value for name, value in read.items() if isinstance(value, Tensor)}
        lazy = {name: value for name, value in read.items() if isinstance(value, LazyInput)}
        return Batch(made, samples.labels, samples.ids, lazy=lazy)

    def encode_prompts(self, prompts: Sequence[str], max_new_tokens: int) -> dict[str, Tensor]:
        """Inputs of N prompts without answers, behind which `max_new_tokens` may follow. Raises
        InputError where these leave no room for a prompt, and where the model gives no answers."""
        longest = self._texts.max_length
        # A decoder says its answer apart from what the encoder reads.
        room = longest - (1 if self.capabilities.architecture.has_decoder else max_new_tokens)
        if room < 1:
            raise InputError(
                f"backbone.max_length: {longest} leaves no room for a prompt beside an answer of "
                f"{max_new_tokens} tokens"
            )
        # The end token alone stands for an answer.
        encoder = replace(self._texts, max_length=room + 1)
        nothing = torch.zeros(len(prompts), dtype=torch.int64)
        samples = Samples(prompts, nothing, torch.arange(len(prompts)), [""] * len(prompts))
        return dict(self._encode_answers(samples, encoder).inputs)

    def encode_stream(
        self, stream: Stream[Samples], features: FeatureStore | None = None
    ) -> Stream[Batch]:
        """The whole stream encoded. Every batch knows its task, and every task the names of its
        classes. Batches that are evaluated are sorted by length.

        Args:
            stream: Of texts or images.
            features: A store that gets to know the inputs, so that it can keep what is computed of
                them.
        """

        def known(samples: Samples) -> Batch:
            batch = self.encode(samples)
            return batch if features is None else self._registered(batch, features)

        encoded = stream.map(known)
        experiences = []
        for each in encoded.experiences:
            names = tuple(stream.class_names[number] for number in each.task.classes)
            task = replace(each.task, class_names=names)
            parts = (each.train, each.validation.by_length(), each.test.by_length())
            experiences.append(Experience(task, *(replace(part, task=task) for part in parts)))
        return replace(encoded, experiences=tuple(experiences))

    @property
    def end_token(self) -> int:
        """The token that ends an answer."""
        return int(self._texts.tokenizer.eos_token_id)

    def tokens_of(self, text: str) -> list[int]:
        """The tokens of a piece of text, without special ones."""
        found: list[int] = self._texts.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def texts_of(self, answers: Tensor) -> list[str]:
        """Answers int64 [N, A] as texts, without IGNORED and without special tokens."""
        rows = [row[row != IGNORED].tolist() for row in answers.cpu()]
        return [self._texts.tokenizer.decode(row, skip_special_tokens=True) for row in rows]

    @property
    def max_length(self) -> int | None:
        """Tokens of the longest text; None for images."""
        return self.encoder.max_length if isinstance(self.encoder, TextEncoder) else None

    @property
    def _texts(self) -> TextEncoder:
        assert isinstance(self.encoder, TextEncoder), "of texts alone"
        return self.encoder

    def _encode_answers(self, samples: Samples, encoder: TextEncoder) -> Batch:
        assert samples.targets is not None
        model, ids = self.capabilities, samples.ids.tolist()
        if model.architecture.has_decoder:
            first = model.decoder_start
            inputs, labels = encoder.with_decoded(samples.values, samples.targets, first, ids)
            return Batch(inputs, labels, samples.ids)
        inputs, labels = encoder.with_answers(samples.values, samples.targets, ids)
        read = {n: each for n, each in inputs.items() if n == ANSWER_AT or model.reads(n)}
        return Batch(read, labels, samples.ids)

    def _registered(self, batch: Batch, features: FeatureStore) -> Batch:
        """The batch with its keys in the feature store."""
        inputs: dict[str, Tensor | LazyInput] = {**batch.inputs, **batch.lazy}
        if self.capabilities.architecture.has_decoder:
            # What is kept is the encoder's, and so depends on the prompt alone.
            inputs = {name: each for name, each in inputs.items() if name not in OF_DECODER}
        keys = features.register(inputs)
        return batch if keys is None else replace(batch, inputs={**batch.inputs, KEYS: keys})
