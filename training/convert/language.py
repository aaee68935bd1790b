"""The language model: its configuration, from LLaVA's flat config.json or from a directory of its own."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.convert.source import ConversionError, read_config

if TYPE_CHECKING:  # imported inside functions only, as in training.convert.source
    from transformers import PretrainedConfig

LANGUAGES = {
    "LlavaLlamaForCausalLM": "llama",
    "LlavaMistralForCausalLM": "mistral",
    "LlavaQwenForCausalLM": "qwen2",
}
"""LLaVA's classes -> the model type of their language model."""
ALONE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Classes of language models that can be assembled."""

REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
)
"""Required settings: instead of an absent one, the class would silently use a default."""
OPTIONS = (
    "hidden_act",
    "initializer_range",
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "attention_dropout",
    "attention_bias",
    "mlp_bias",
    "head_dim",
    "bos_token_id",
    "eos_token_id",
)


def with_defaults(settings: dict[str, Any], kind: str) -> dict[str, Any]:
    """`settings` with what the files of the first Llamas leave out because it had no other value then."""
    if kind != "llama":
        return settings
    first = {"rope_theta": 10000.0, "num_key_value_heads": settings.get("num_attention_heads")}
    return {**first, **settings}


def problems(settings: dict[str, Any]) -> list[str]:
    """What is absent from the settings of a language model, or no number."""
    absent = [f"no {key}" for key in REQUIRED if key not in settings]
    return absent + [f"{key} {settings[key]!r}" for key in REQUIRED if not _number(settings.get(key, 0))]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def text_config(settings: dict[str, Any], kind: str) -> "PretrainedConfig":
    """The configuration of the language model that LLaVA's config.json describes; `kind`: see LANGUAGES."""
    from transformers import LlamaConfig, MistralConfig, Qwen2Config

    values = {key: settings[key] for key in (*REQUIRED, *OPTIONS) if key in settings and key != "rope_theta"}
    # The kind of scaling is called `rope_type` or, in older files, `type`; the class reads either one.
    values["rope_parameters"] = {**(settings.get("rope_scaling") or {}), "rope_theta": settings["rope_theta"]}
    values["tie_word_embeddings"] = bool(settings.get("tie_word_embeddings", False))
    classes: dict[str, Any] = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
    return classes[kind].from_dict(values)


def config_alone(folder: Path) -> "PretrainedConfig":
    """The configuration of a directory that holds a language model alone. Raises ConversionError."""
    from transformers import AutoConfig

    architectures = read_config(folder).get("architectures") or []
    if not set(architectures) & set(ALONE):
        raise ConversionError(
            f"{folder} is a {' '.join(architectures) or 'model without architectures'}: "
            f"the language model must be one of {', '.join(ALONE)}"
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, TypeError) as error:
        raise ConversionError(f"{folder}/config.json cannot be read ({error})") from error
    # These describe the directory, not the part of a model; the weights carry their own dtype.
    config.name_or_path, config.architectures, config.dtype = "", None, None
    return config
