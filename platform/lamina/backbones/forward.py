"""One forward of a frozen model. It is planned first, and then executed:

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

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lamina.backbones.answers import answer_positions
from lamina.backbones.cached_prefix import CachedPrefix
from lamina.backbones.calls import Call, Hidden
from lamina.backbones.capabilities import Capabilities
from lamina.backbones.features import FeatureStore
from lamina.backbones.hooks import laid_over
from lamina.backbones.operations import is_counting
from lamina.backbones.overlay import Overlay, StandIn, rows_of
from lamina.backbones.packing import added_by, are_shared
from lamina.backbones.positions import ARE_GIVEN, first_position
from lamina.backbones.settings import Pooling
from lamina.backbones.unpadded import TokenPositions
from lamina.core import ANSWER_AT, KEYS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    """How many tokens of each row come before its answer, [N]. Only these are pooled."""
    overlay: Overlay

    @property
    def num_prompts(self) -> int:
        """Tokens of the prompt."""
        return 0 if self.prompt is None else self.prompt.shape[1]


class Forward:
    """The forwards of one model under overlays. It has no state of its own."""

    def __init__(
        self,
        model: "PreTrainedModel",
        capabilities: Capabilities,
        layers: CachedPrefix,
        pooling: Pooling,
    ) -> None:
        self.model = model
        self.capabilities = capabilities
        self.architecture = capabilities.architecture
        self._layers = layers
        self._pooling = pooling

    def plan(self, call: Call, features: FeatureStore | None) -> ForwardPlan:
        """What a forward for a call will do. Reads the feature store, and fills it where it
        should hold these inputs and does not yet."""
        overlay = call.overlay
        own = (KEYS, ANSWER_AT)
        arguments = {name: value for name, value in call.inputs.items() if name not in own}
        prompt = prompt_of(overlay, call.num_rows)
        start = self.architecture.frozen_below(overlay)
        if self.architecture.has_decoder:
            cached = self._layers.encoded(features, start, call.inputs)
        else:
            cached = self._layers.tokens(features, start, call.inputs)
        if self.capabilities.modality == "text":
            arguments = self.text_arguments(arguments, prompt, overlay.position_shift)
        positions = self._positions_without_padding(overlay, arguments)
        if positions is not None and positions.is_causal:
            arguments = self._as_one_row(arguments, positions)
        mask = call.inputs.get("attention_mask")
        answer_at = call.inputs.get(ANSWER_AT)
        return ForwardPlan(start, cached, positions, prompt, arguments, mask, answer_at, overlay)

    def execute(self, plan: ForwardPlan) -> Hidden:
        """Run the model as planned."""
        if self.architecture.has_decoder:
            return self._execute_both_halves(plan)
        overlay = plan.overlay
        embedded = plan.prompt if self.capabilities.modality == "image" else None
        with (
            self.laid_over(overlay, embedded),
            self._layers.begun(plan.start, plan.cached, overlay, plan.arguments, plan.positions),
        ):
            tokens = self.run(plan.arguments, overlay.stand_in).last_hidden_state
        if plan.positions is not None and plan.mask is not None:
            padded = plan.positions.within(tokens)
            tokens = padded[:, : plan.num_prompts + plan.mask.shape[1]]
        if plan.answer_at is None or plan.mask is None:
            return self.pooled(tokens, plan.mask, plan.num_prompts)
        columns = torch.arange(plan.mask.shape[1], device=plan.mask.device)
        asked = plan.mask * (columns < plan.answer_at[:, None])
        hidden = self.pooled(tokens, asked, plan.num_prompts)
        before = answer_positions(plan.mask, plan.answer_at) + plan.num_prompts
        index = before[:, :, None].expand(-1, -1, tokens.shape[2])
        return replace(hidden, answers=tokens.gather(1, index).float())

    def _execute_both_halves(self, plan: ForwardPlan) -> Hidden:
        """Run encoder and decoder; the decoder alone, where the encoder's output is cached."""
        overlay = plan.overlay
        arguments: dict[str, Any] = dict(plan.arguments)
        if plan.cached is not None:
            from transformers.modeling_outputs import BaseModelOutput

            del arguments["input_ids"]
            arguments["encoder_outputs"] = BaseModelOutput(plan.cached)
        with self.laid_over(overlay):
            output = self.run(arguments, overlay.stand_in)
        hidden = self.pooled(output.encoder_last_hidden_state, plan.mask, plan.num_prompts)
        return replace(hidden, answers=output.last_hidden_state.float())

    def laid_over(
        self, overlay: Overlay, embedded: Tensor | None = None
    ) -> AbstractContextManager[None]:
        """Inside, the model runs under an overlay. `embedded`: prompts [N, length, dim] that enter
        the first layer of an image."""
        model = self.model if overlay.stand_in is None else overlay.stand_in.module
        return laid_over(model, self.architecture, overlay, embedded, self.capabilities.num_first)

    def run(self, arguments: Mapping[str, Any], stand_in: StandIn | None) -> Any:
        """The model's own output, or that of what stands in for it."""
        # Language models copy keys and values for the next token, unless they are told not to.
        given = {"use_cache": False} if "use_cache" in self.capabilities.accepts else {}
        given |= arguments
        if stand_in is None:
            return self.model(**given)
        return functional_call(stand_in.module, dict(stand_in.tensors), kwargs=given)

    def text_arguments(
        self, arguments: Mapping[str, Tensor], prompt: Tensor | None, position_shift: int
    ) -> dict[str, Tensor]:
        """What the model's forward is given for texts behind a prompt [N, length, word width]."""
        given, ids = dict(arguments), arguments["input_ids"]
        shift = position_shift if self.capabilities.counts_prefixes else 0
        added = shift + (0 if prompt is None else prompt.shape[1])
        if added:
            key = "adapter: what it puts before a text"
            self.capabilities.check_positions(added, key, ids.shape[1])
        if shift:
            start = shift + first_position(self.model)
            positions = torch.arange(ids.shape[1], device=ids.device) + start
            given["position_ids"] = positions[None].expand(ids.shape)
        if prompt is not None:
            words = self.model.get_input_embeddings()(given.pop("input_ids"))
            given["inputs_embeds"] = torch.cat([prompt.to(words.dtype), words], dim=1)
            for name, value in (("attention_mask", 1), ("token_type_ids", 0)):
                if name in given:
                    padding = (prompt.shape[1], 0)
                    given[name] = nn.functional.pad(given[name], padding, value=value)
        return given

    def pooled(self, tokens: Tensor, mask: Tensor | None, num_prompts: int) -> Hidden:
        """Tokens that left the last layer as features: [N, S, dim], or a grid [N, dim, height,
        width] of an image. Prompts come first in a text; in an image they follow the CLS, where
        there is one. `mask`: 1 at the tokens to pool, without prompts [N, S - num_prompts]."""
        tokens = tokens.float()
        if tokens.dim() == 4:
            tokens = tokens.flatten(2).transpose(1, 2)
        start = 0 if self.capabilities.modality == "text" else self.capabilities.num_first
        prompts = tokens[:, start : start + num_prompts].mean(dim=1) if num_prompts else None
        own = (
            torch.cat([tokens[:, :start], tokens[:, start + num_prompts :]], dim=1)
            if num_prompts
            else tokens
        )
        if self._pooling == "first":
            return Hidden(own[:, 0], prompts)
        if mask is None:
            return Hidden(own.mean(dim=1), prompts)
        weights = mask.to(own.dtype)[:, :, None]
        return Hidden((own * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0), prompts)

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
        if not self.capabilities.may_drop_padding or not all(map(are_shared, patches)):
            return None
        is_causal = self.architecture.model_type in ARE_GIVEN
        window = getattr(self.model.config, "sliding_window", None) or mask.shape[1]
        if is_causal and (mask.shape[1] > window or not mask[:, 0].all()):
            return None
        return TokenPositions.of(mask, max(added.prefixes, default=0), is_causal=is_causal)

    def _as_one_row(
        self, arguments: Mapping[str, Tensor], positions: TokenPositions
    ) -> dict[str, Tensor]:
        """The tokens of all texts one after the other, [1, T], with the position of each in its
        text."""
        mask = arguments["attention_mask"]
        columns = torch.arange(mask.shape[1], device=mask.device) + first_position(self.model)
        position_ids = arguments.get("position_ids", columns.expand(mask.shape))
        tokens = {
            name: positions.without(arguments[name])
            for name in ("input_ids", "inputs_embeds")
            if name in arguments
        }
        return {
            **tokens,
            "position_ids": positions.without(position_ids),
            "attention_mask": positions.visible,
        }


def prompt_of(overlay: Overlay, num_rows: int) -> Tensor | None:
    """The tokens [num_rows, length, word width] that an overlay puts before the input's."""
    prompts = [rows_of(prompt, num_rows) for prompt in overlay.prompts]
    return torch.cat(prompts, dim=1) if prompts else None
