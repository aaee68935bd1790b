"""A rater in LLaVA-NeXT's layout whose weights make it answer each prompt with a digit that the text decides.

Two of the 32 dimensions pass unchanged through all layers. One is 1 everywhere, and the head turns it into
digits; the other is set in the embeddings of digits only, and the head turns it into the end of the turn. The
other 30 are random, and so is the digit that they prefer after a given text.
"""

import json

import torch
from llava_layouts import TOWER, bytes_tokenizer, original_config, original_weights, parts
from safetensors.torch import save_file

from training.convert import convert_llava_next

AFTER_A_DIGIT, ALWAYS = 30, 31


@torch.no_grad()
def write_rater(folder):
    """The checkpoint, converted; its config says one tile for each image."""
    tokenizer, made = bytes_tokenizer(), parts(320, tied=False)
    _, projector, newline, decoder = made
    digits = tokenizer.convert_tokens_to_ids([str(digit) for digit in range(6)])
    embedded, head = decoder.model.embed_tokens.weight, decoder.lm_head.weight
    embedded[:, AFTER_A_DIGIT], embedded[:, ALWAYS] = 0, 1
    embedded[digits, AFTER_A_DIGIT] = 6
    for layer in decoder.model.layers:
        layer.self_attn.o_proj.weight[AFTER_A_DIGIT:] = 0
        layer.mlp.down_proj.weight[AFTER_A_DIGIT:] = 0
    projector[-1].weight[AFTER_A_DIGIT:] = 0
    for vector in (projector[-1].bias, newline):
        vector[AFTER_A_DIGIT], vector[ALWAYS] = 0, 1
    head[:] = 0
    last = embedded[tokenizer.encode("\n")[0], :AFTER_A_DIGIT]  # of every prompt: it must not decide
    drawn = torch.randn(6, AFTER_A_DIGIT, generator=torch.Generator().manual_seed(1))
    head[digits, :AFTER_A_DIGIT] = drawn - torch.outer(drawn @ last, last) / (last @ last)
    head[digits, ALWAYS] = 30
    head[tokenizer.eos_token_id, AFTER_A_DIGIT] = 60
    source = folder / "original"
    source.mkdir(parents=True)
    save_file(original_weights(*made, tied=False), source / "model.safetensors")
    tokenizer.save_pretrained(source)
    (source / "config.json").write_text(json.dumps(original_config(decoder, tied=False)))
    return convert_llava_next(source, folder / "rater", vision_config=TOWER, image_mode="base")
