"""Derives the golden tables from the published rules, without the product's renderer and chat templates.

python tests/training/golden/derive.py                # writes vicuna_v1.json, qwen.json and truncated.json
python tests/training/golden/derive.py --tokenizers   # trains the two small tokenizers first

The rules of LLaVA's `v1` format (Vicuna; arXiv 2310.03744) and of LLaVA-NeXT's Qwen format (ChatML; arXiv
2408.03326). Here text is tokenised piece by piece: that the pieces add up is part of what a table checks.

1. An image that is the only one of its turn goes first: `<image>`, a newline, the rest without white space at
   its ends. Two images of a turn stay where they are. `<image>` stands for IMAGE_TOKENS tokens without loss.
2. Vicuna: `<s>`, the system sentence, a space, and for each turn `USER: question ASSISTANT: answer</s>`. Text
   on each side of `<image>` and of `</s>` is tokenised by itself, with SentencePiece's dummy space before it.
   Labels: the answer and its `</s>`.
3. Qwen: the system prompt, then each message as `<|im_start|>role`, newline, text, `<|im_end|>`, newline.
   Labels "answer": the answer and its end marker. "llava_next": all tokens of an assistant message, and in
   the other messages each start marker, end marker and single-newline token (so also that behind an image).
4. A system turn of the data replaces the system prompt.
5. Truncation keeps the first MAX_LENGTH tokens.
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent
IGNORE, IMAGE_TOKENS, MAX_LENGTH = -100, 4, 100
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
QWEN = "You are a helpful assistant."
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2's tokenizer cuts text into words."""


def main() -> None:
    """Write the tables."""
    if "--tokenizers" in sys.argv:
        train_tokenizers()
    for name, table in tables().items():
        lines = (
            f" {json.dumps(key)}: {{\n"
            + ",\n".join(f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in row.items())
            + "}"
            for key, row in table.items()
        )
        (HERE / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def tables() -> dict[str, dict[str, dict[str, list[int]]]]:
    """Table name -> conversation -> {"ids", labels by rule} with int lists of equal length."""
    conversations = json.loads((HERE / "conversations.json").read_text())
    whole = {
        "vicuna_v1": {name: vicuna(each) for name, each in conversations.items()},
        "qwen": {name: qwen(each) for name, each in conversations.items()},
    }
    cut = {
        table: {key: values[:MAX_LENGTH] for key, values in rows["long"].items()}
        for table, rows in whole.items()
    }
    return {**whole, "truncated": cut}


def placed(question: str) -> str:
    """Rule 1."""
    if question.count("<image>") != 1:
        return question
    return ("<image>\n" + question.replace("<image>", "").strip()).strip()


def with_images(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text: each piece between images by itself, and IMAGE_TOKENS for each image."""
    image, ids = tokenizer.token_to_id("<image>"), []
    for number, piece in enumerate(text.split("<image>")):
        ids += [image] * IMAGE_TOKENS * (number > 0)
        ids += tokenizer.encode(piece, add_special_tokens=False).ids if piece else []
    return ids


def vicuna(conversation: dict) -> dict[str, list[int]]:
    """Rules 1, 2 and 4."""
    tokenizer = Tokenizer.from_file(str(HERE / "vicuna_tokenizer.json"))
    ids, labels = [tokenizer.token_to_id("<s>")], [IGNORE]
    before = conversation.get("system", VICUNA) + " "
    for question, answer in conversation["turns"]:
        prompt = with_images(tokenizer, f"{before}USER: {placed(question)} ASSISTANT:")
        said = [*tokenizer.encode(answer, add_special_tokens=False).ids, tokenizer.token_to_id("</s>")]
        ids += prompt + said
        labels += [IGNORE] * len(prompt) + said
        before = ""
    return {"ids": ids, "answer": labels}


def qwen(conversation: dict) -> dict[str, list[int]]:
    """Rules 1, 3 and 4."""
    tokenizer = Tokenizer.from_file(str(HERE / "qwen_tokenizer.json"))
    start, end = (tokenizer.token_to_id(mark) for mark in ("<|im_start|>", "<|im_end|>"))
    newline = tokenizer.encode("\n").ids
    messages = [("system", conversation.get("system", QWEN))]
    for question, answer in conversation["turns"]:
        messages += [("user", placed(question)), ("assistant", answer)]
    out: dict[str, list[int]] = {"ids": [], "answer": [], "llava_next": []}
    for role, text in messages:
        head = [start, *tokenizer.encode(role).ids, *newline]
        said = [*with_images(tokenizer, text), end]
        own = head + said + newline
        out["ids"] += own
        if role == "assistant":
            out["answer"] += [IGNORE] * len(head) + said + [IGNORE]
            out["llava_next"] += own
        else:
            out["answer"] += [IGNORE] * len(own)
            out["llava_next"] += [i if i in (start, end, *newline) else IGNORE for i in own]
    return out


def train_tokenizers() -> None:
    """Write vicuna_tokenizer.json (as Llama's: SentencePiece BPE, byte fallback) and qwen_tokenizer.json."""
    conversations = json.loads((HERE / "conversations.json").read_text()).values()
    texts = [text.replace("<image>", "") for c in conversations for turn in c["turns"] for text in turn]
    texts = [
        VICUNA,
        QWEN,
        "Answer in one word.",
        "system",
        "user",
        "assistant",
        "USER: ASSISTANT:",
        *texts,
    ] * 2
    _save("vicuna", _sentencepiece(texts), ["<unk>", "<s>", "</s>", "<pad>", "<image>"])
    _save("qwen", _byte_level(texts), ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"])


def _save(name: str, tokenizer: Tokenizer, special: list[str]) -> None:
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    (HERE / f"{name}_tokenizer.json").write_text(
        json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False)
    )


def _sentencepiece(texts: list[str]) -> Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    single_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    learner.train_from_iterator(
        [text.replace("\n", " ") for text in texts],
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=["<unk>", "<s>", "</s>", *single_bytes], show_progress=False
        ),
    )
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = learner.normalizer
    return tokenizer


def _byte_level(texts: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


if __name__ == "__main__":
    main()
