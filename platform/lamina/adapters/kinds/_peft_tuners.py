"""What Lamina knows of the single tuners of PEFT: which of them cannot work here and why, and which
modules they adapt by default."""

from collections.abc import Mapping
from typing import Any

from lamina.backbones.backbone import Backbone
from lamina.registry import InputError

PROMPTS = "adapter.kind 'prompt', 'prefix' or 'vpt_deep'"
STEPS = "its callback after every optimiser step is never called here"
SAMPLES = "it samples while it trains, and PEFT's modules run without that here"

REFUSED = {
    "ADALORA": f"{STEPS}, so its ranks would never be reallocated; use peft_type LORA",
    "ADAPTION_PROMPT": f"it changes the attention of decoders only; use {PROMPTS}",
    "CARTRIDGE": f"it learns prompts; use {PROMPTS}",
    "CPT": f"it learns prompts of decoders; use {PROMPTS}",
    "LILY": "its router averages over the whole batch, so a row's answer would depend on the "
    "others; use peft_type LORA",
    "MULTITASK_PROMPT_TUNING": f"it learns prompts; use {PROMPTS}",
    "OSF": "it projects gradients in hooks that do not run here; use the strategy gpm, or LORA",
    "POLY": "it wants to know the task of every row; use peft_type LORA",
    "PREFIX_TUNING": "it learns prompts; use adapter.kind 'prefix'",
    "PROMPT_TUNING": "it learns prompts; use adapter.kind 'prompt'",
    "PVERA": f"{SAMPLES}; use peft_type VERA",
    "P_TUNING": f"it learns prompts; use {PROMPTS}",
    "SHADOW": "it runs a second model beside the backbone; use peft_type LORA",
    "XLORA": "it mixes LoRAs that were trained before; use peft_type LORA",
}
"""Why a tuner is refused and what to use instead, by `peft_type`."""

REFUSED_KEYS = {
    "alora_invocation_tokens": "only generation knows where they stand",
    "arrow_config": "it mixes LoRAs that were trained before",
    "corda_config": "its initialisation reads data first",
    "eva_config": "its initialisation reads data first",
    "layer_replication": "it makes another model of the backbone",
    "lora_ga_config": "its initialisation reads gradients first",
    "megatron_config": "the backbone is not Megatron's",
    "monteclora_config": SAMPLES,
    "sample_at_inference": "a row's answer would change from call to call",
    "use_asa": STEPS,
    "use_qalora": "the backbone is not quantised",
    "velora_config": "its backward is for training mode, in which PEFT's modules never are here",
}
"""Why a key of a tuner's configuration has to stay unset (or false)."""

NEEDS_DATA = ("corda", "eva", "lora_ga")
"""Values of `init_lora_weights` that need data or gradients before the first step."""


def check_tuner(peft_type: str, config: Mapping[str, Any]) -> None:
    """Raise InputError for a tuner, or a key of its configuration, that cannot work here."""
    if reason := REFUSED.get(peft_type):
        raise InputError(f"adapter.peft_type: {peft_type} is refused: {reason}")
    for key, value in config.items():
        if "dropout" in key and value:
            raise InputError(f"adapter.config.{key}: {value} is not 0, which 'peft' needs")
        if value and key in REFUSED_KEYS:
            raise InputError(f"adapter.config.{key}: leave it out: {REFUSED_KEYS[key]}")
    start = config.get("init_lora_weights")
    if start in NEEDS_DATA:
        raise InputError(
            f"adapter.config.init_lora_weights: {start!r} looks at data before the first step "
            "(allowed: true, false, gaussian, orthogonal)"
        )


def default_config(peft_type: str, backbone: Backbone) -> dict[str, Any]:
    """The configuration on this backbone where the job gives none: query and value of every layer,
    unless the method is about other modules."""
    architecture = backbone.architecture
    if peft_type == "LN_TUNING":
        return {"target_modules": architecture.norms_in(None)}
    if peft_type == "IA3":
        last = [site.write for site in architecture.mlps]
        return {
            "target_modules": [*architecture.projections[1:], *last],
            "feedforward_modules": last,
        }
    if peft_type == "FROD":
        return {"target_modules": list(architecture.query_and_value), "progressbar": False}
    if peft_type == "TRAINABLE_TOKENS":
        return {}
    return {"target_modules": list(architecture.query_and_value)}
