"""A tiny random checkpoint of each model family, with a tokenizer of bytes and the family's own tokens.

The default sizes are for training in tests; with `hidden=128` heads have 32 dimensions, which the kernels of
vLLM on CPUs take.
"""

from pathlib import Path

SPREAD = 0.15
"""Standard deviation of the weights; with the usual 0.02 all answers would be the same."""
SIDE, PATCH = 32, 8
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
QWEN = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
INTERN = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
SMOL = ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>"]


def build(family: str, out: Path, hidden: int = 32) -> Path:
    """Write the checkpoint of one of NAMES; the same arguments give the same weights."""
    import torch

    from training.models import save_checkpoint

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = BUILDERS[family](hidden)
        for parameter in model.parameters():  # weights that would start as zeros or ones matter too
            parameter.data.add_(torch.randn_like(parameter), alpha=0.02)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return save_checkpoint(model, processor, out)


def tokenizer_of(special: list[str], end: str, start: str | None = None, **named):
    """Single bytes, `<pad>` and the special tokens; `named`: attributes under which tokens are known."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    listed = ["<pad>", *dict.fromkeys([*([start] if start else []), end, *special, *named.values()])]
    vocabulary = {token: i for i, token in enumerate([*listed, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(listed)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token=end,
        bos_token=start,
        extra_special_tokens=named,
    )


def _text(tokenizer, hidden: int, **others) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": SPREAD,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **others,
    }


def _vision(hidden: int, **others) -> dict:
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": PATCH,
        **others,
    }


def _id(tokenizer, token: str) -> int:
    return tokenizer.convert_tokens_to_ids(token)


def _llava(hidden: int):
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    tokenizer = tokenizer_of(["<image>"], "</s>", "<s>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision(hidden)),
        text_config=LlamaConfig(**_text(tokenizer, hidden)),
        image_token_index=_id(tokenizer, "<image>"),
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(config), processor


def _llava_next(hidden: int):
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    tokenizer = tokenizer_of(["<image>"], "</s>", "<s>")
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_vision(hidden)),
        text_config=LlamaConfig(**_text(tokenizer, hidden)),
        image_token_index=_id(tokenizer, "<image>"),
        image_grid_pinpoints=GRID,
        image_seq_length=(SIDE // PATCH) ** 2,
    )
    pixels = LlavaNextImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=GRID,
    )
    processor = LlavaNextProcessor(
        pixels,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _llava_onevision(hidden: int):
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    from training.models import onevision_processor

    tokenizer = tokenizer_of(["<|im_start|>", "<image>", "<video>"], "<|im_end|>")
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_vision(hidden), vision_use_head=False),
        text_config=Qwen2Config(**_text(tokenizer, hidden, tie_word_embeddings=True)),
        image_token_index=_id(tokenizer, "<image>"),
        video_token_index=_id(tokenizer, "<video>"),
        image_grid_pinpoints=GRID,
        tie_word_embeddings=True,
    )
    return LlavaOnevisionForConditionalGeneration(config), onevision_processor(tokenizer, SIDE, PATCH, GRID)


def _qwen_ids(tokenizer) -> dict[str, int]:
    tokens = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start"}
    tokens["vision_end"] = "vision_end"
    return {f"{name}_token_id": _id(tokenizer, f"<|{token}|>") for name, token in tokens.items()}


def _qwen2_5_vl(hidden: int):
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = tokenizer_of(QWEN, "<|im_end|>")
    eighth = hidden // 4 // 8
    rope = {"rope_type": "default", "mrope_section": [2 * eighth, eighth, eighth], "rope_theta": 1e4}
    vision = {
        "depth": 2,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 4 * PATCH,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, hidden, tie_word_embeddings=False, rope_parameters=rope),
        vision_config=vision,
        tie_word_embeddings=False,
        **_qwen_ids(tokenizer),
    )
    size = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": 16 * (2 * PATCH) ** 2}
    processor = Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=size, patch_size=PATCH),
        tokenizer,
        Qwen2VLVideoProcessor(size=size, patch_size=PATCH),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl(hidden: int):
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = tokenizer_of(QWEN, "<|im_end|>")
    eighth = hidden // 4 // 8
    rope = {
        "rope_type": "default",
        "mrope_section": [2 * eighth, eighth, eighth],
        "mrope_interleaved": True,
        "rope_theta": 1e4,
    }
    vision = {
        "depth": 3,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_heads": 2,
        "out_hidden_size": hidden,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    config = Qwen3VLConfig(
        text_config=_text(
            tokenizer, hidden, head_dim=hidden // 4, tie_word_embeddings=True, rope_parameters=rope
        ),
        vision_config=vision,
        tie_word_embeddings=True,
        **_qwen_ids(tokenizer),
    )
    size = {"shortest_edge": (2 * PATCH) ** 2, "longest_edge": 16 * (2 * PATCH) ** 2}
    half = [0.5] * 3
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(size=size, patch_size=PATCH, image_mean=half, image_std=half),
        tokenizer,
        Qwen3VLVideoProcessor(size=size, patch_size=PATCH),
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _internvl(hidden: int):
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
        InternVLVisionConfig,
        Qwen2Config,
    )

    tokenizer = tokenizer_of(["<|im_start|>"], "<|im_end|>", **INTERN)
    tokens = (SIDE // PATCH) ** 2 // 4
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(**_vision(hidden, attention_bias=True)),
        text_config=Qwen2Config(**_text(tokenizer, hidden, tie_word_embeddings=False)),
        image_token_id=_id(tokenizer, INTERN["context_image_token"]),
        image_seq_length=tokens,
        tie_word_embeddings=False,
    )
    pixels = {"size": {"height": SIDE, "width": SIDE}}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(**pixels, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(**pixels),
        image_seq_length=tokens,
    )
    return InternVLForConditionalGeneration(config), processor


def _smolvlm(hidden: int):
    from transformers import (
        LlamaConfig,
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = tokenizer_of([*SMOL, *places], "<end_of_utterance>", "<|im_start|>")
    config = SmolVLMConfig(
        vision_config=_vision(hidden),
        text_config=LlamaConfig(**_text(tokenizer, hidden)),
        image_token_id=_id(tokenizer, "<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
    )
    pixels = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**pixels),
        tokenizer,
        SmolVLMVideoProcessor(**pixels),
        image_seq_len=(SIDE // PATCH) ** 2 // 4,
    )
    return SmolVLMForConditionalGeneration(config), processor


BUILDERS = {
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
}
NAMES = tuple(BUILDERS)
