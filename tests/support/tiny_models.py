"""Tiny random checkpoints of the supported model classes, and of text-only graders.

LLaVA-1.5 (llava), LLaVA-OneVision with one tile (base) and with tiles (anyres), Qwen2.5-VL (qwen).
"""

from pathlib import Path

KINDS = ("llava", "base", "anyres", "qwen")
GRID = [[64, 64], [64, 128], [128, 64], [128, 128]]
QWEN_SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
SPREAD = 0.15
"""Standard deviation of the weights; with the usual 0.02 all queries would get nearly the same answer."""


def build(kind: str, out: Path) -> Path:
    """Write the checkpoint of one of KINDS."""
    import torch

    from curation.mini.tokenizer import build_tokenizer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {"llava": _llava, "qwen": _qwen}.get(kind, _onevision)(build_tokenizer(), out, kind)


def _onevision(tokenizer, out: Path, kind: str) -> Path:
    from training.models import build_tiny, load, save_checkpoint

    build_tiny(
        out, tokenizer, hidden=32, layers=2, vision_layers=1, heads=4, kv_heads=2, initializer_range=SPREAD
    )
    if kind == "anyres":
        model, processor = load(out)
        model.config.image_mode = "anyres"
        model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = GRID
        save_checkpoint(model, processor, out)
    return out


def _llava(tokenizer, out: Path, kind: str) -> Path:
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    from training.models import save_checkpoint

    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=SPREAD,
        pad_token_id=tokenizer.pad_token_id,
    )
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image, image_seq_length=4)
    pixels = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        pixels,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    processor.chat_template = tokenizer.chat_template
    return save_checkpoint(LlavaForConditionalGeneration(config), processor, out)


def _qwen(tokenizer, out: Path, kind: str) -> Path:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    from training.models import save_checkpoint

    tokenizer.add_special_tokens({"additional_special_tokens": QWEN_SPECIAL, "eos_token": "<|im_end|>"})
    tokenizer.chat_template = None
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": SPREAD,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4},
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    size = {"shortest_edge": 28 * 28, "longest_edge": 16 * 28 * 28}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=size), tokenizer, Qwen2VLVideoProcessor(size=size)
    )
    return save_checkpoint(Qwen2_5_VLForConditionalGeneration(config), processor, out)


def build_text_models(folder: Path, positions: int = 256) -> tuple[Path, Path]:
    """Write a reward model (classifier with one logit) and a scorer (causal model) of `positions` tokens."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, Qwen2Config, Qwen2ForCausalLM

    from curation.mini.tokenizer import build_tokenizer

    tokenizer = build_tokenizer()
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": positions,
        "pad_token_id": tokenizer.pad_token_id,
    }
    torch.manual_seed(0)
    reward = BertForSequenceClassification(BertConfig(num_labels=1, initializer_range=0.5, **shape))
    scorer = Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, initializer_range=0.3, **shape))
    for name, model in (("reward", reward), ("scorer", scorer)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "reward", folder / "scorer"
