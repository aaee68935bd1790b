"""A stand-in for a clone of the released mmSSR code: its layout and forms, with words of its own.

`CONFIG` and `PROGRAM` are the files that hold the protocol of the raters; `write_clone` writes them.
"""

CONFIG = """
seps = [" ~ ", "\\n\\n"]
style_instruct = ""
style_candidates = [
    "multi-choice", "coordinate", "yes/no", "word/short-phrase", "short description", "detailed description",
    "comparison", "chain-of-thought (step-by-step)", "specified style"
]
style_candidates = f"<{'; , '.join(style_candidates)}>"
style_query = "Ways of talking:" + seps[0] + style_candidates + seps[1] + "Which? "
cap_instruct = ""
cap_query = "From 0 to 5, what does one learn here about {cap_keyword}?"
"""

PROGRAM = """
import os
import never_to_be_imported
from config.ss import style_instruct, style_query, cap_instruct, cap_query, seps

open(os.path.join(os.path.dirname(__file__), "executed"), "w")

def format_convs(convs):
    rounds = []
    for idx in range(len(convs)):
        conv = convs[idx]["value"]
        if idx % 2 != 0:
            continue
        rounds.append(
            (
                conv if (conv.startswith("<image>\\nClue:") or conv.startswith("Clue:"))
                    else f"Asked: {conv.strip('Asked: ')}") + \\
                seps[0] + \\
                f"Said: "
            )
        if idx != len(convs) - 1:
            rounds[-1] += f"{convs[idx+1]['value']}"
    return seps[1].join(rounds)

def preprocess_qwen(sources, tokenizer, has_image=False, system_message="Be kind."):
    nl_tokens = tokenizer("\\n").input_ids
    _input_id = []
    for i, text in enumerate(sources):
        _input_id += tokenizer(text).input_ids
        _input_id += [IMAGE_TOKEN_INDEX] + nl_tokens
    return _input_id

def eval_model(args):
    if args.keyword == "style":
        query = style_query
        instruct = style_instruct
    else:
        query = cap_query.replace("{cap_keyword}", args.keyword)
        instruct = cap_instruct
    system_message = "You grade."
    if args.instruct_sys:
        system_message = instruct
    for line in questions:
        qs = instruct + format_convs(line["conversations"]) + seps[1] + query
        image_tensor = image_processor.preprocess(image, return_tensors="pt")["pixel_values"]
        output_ids = model.generate(input_ids, images=image_tensor, max_new_tokens=77, use_cache=True)
"""


def write_clone(folder, old="", new=""):
    """The clone in `folder`, with the text `old`, which must be there, replaced by `new`."""
    assert old in CONFIG + PROGRAM
    for name, text in {"config/ss.py": CONFIG, "llava/eval/model_ss.py": PROGRAM}.items():
        path = folder / name
        path.parent.mkdir(parents=True)
        path.write_text(text.replace(old, new) if old else text)
    return folder


def format_convs(rounds):
    """What the stand-in's own function makes of rounds of (question, answer)."""
    lines = PROGRAM.split("\n")
    start = lines.index("def format_convs(convs):")
    stop = next(at for at in range(start + 1, len(lines)) if lines[at].startswith("def "))
    names = {"seps": [" ~ ", "\n\n"]}
    exec("\n".join(lines[start:stop]), names)
    return names["format_convs"]([{"value": text} for pair in rounds for text in pair])
