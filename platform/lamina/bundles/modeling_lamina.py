"""A backbone, its adapters merged into its weights, and a linear head on its pooled tokens.

This file travels with every classifier that `lamina export` writes, so that plain transformers
loads it (`trust_remote_code=True`); it imports nothing of Lamina.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class LaminaConfig(PretrainedConfig):
    """Settings of a LaminaClassifier."""

    model_type = "lamina_classifier"

    def __init__(
        self,
        backbone: dict[str, Any] | None = None,
        pooling: str = "mean",
        width: int = 1,
        **settings: Any,
    ) -> None:
        """`backbone`: the configuration of the model below; `pooling`: how its tokens become one
        feature of so many numbers (`width`), their `mean` or the `first`."""
        self.backbone = backbone or {}
        self.pooling = pooling
        self.width = width
        super().__init__(**settings)


class LaminaClassifier(PreTrainedModel):
    """Logits [N, num_labels] of texts or images."""

    config_class = LaminaConfig
    base_model_prefix = "backbone"

    def __init__(self, config: LaminaConfig) -> None:
        super().__init__(config)
        self.backbone = AutoModel.from_config(AutoConfig.for_model(**config.backbone))
        self.head = nn.Linear(config.width, int(config.num_labels or 0))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **unused: Any,
    ) -> SequenceClassifierOutput:
        """What a Hugging Face pipeline calls."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "pixel_values": pixel_values,
            "token_type_ids": token_type_ids,
        }
        inputs = {name: each for name, each in given.items() if each is not None}
        tokens = self.backbone(**inputs).last_hidden_state
        return SequenceClassifierOutput(logits=self.head(self._pooled(tokens, attention_mask)))

    def _pooled(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        if tokens.dim() == 4:  # A grid [N, width, rows, columns].
            tokens = tokens.flatten(2).transpose(1, 2)
        if self.config.pooling == "first":
            return tokens[:, 0]
        if mask is None:
            return tokens.mean(dim=1)
        weights = mask.to(tokens.dtype)[:, :, None]
        return (tokens * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)
