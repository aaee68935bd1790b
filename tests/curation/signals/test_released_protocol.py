"""The protocol of the released raters: read from a clone, and asked for as that code asks."""

import json

import numpy as np
import pytest
import yaml
from hand_made_rater import write_rater
from llava_layouts import picture
from released_clone import format_convs, write_clone

from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.pool.sample import Sample, Turn
from curation.signals.core.table import read_metadata, read_signal
from curation.signals.core.vlm import Vlm
from curation.signals.prompts import from_mmssr, main
from curation.signals.raters.capability import score_capabilities
from curation.signals.raters.official import with_prompt
from curation.signals.raters.queries import PromptError, load_queries
from curation.taxonomy import CAPABILITIES, CAPABILITY_KEYS, STYLES
from training.aspects import mode_of_view

ROUNDS = (
    ("<image>\nAsked often: is the sky up here?", "No."),
    ("Clue: look up.\nWhere is it?", "Left"),
    (" d Why? ", "A: it is so"),
)
"""The first question loses characters at both ends, the second has no label."""


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clone")
    from_mmssr(write_clone(folder / "clone"), folder / "released.yaml")
    assert not list(folder.rglob("executed"))
    return folder / "released.yaml"


@pytest.fixture(scope="module")
def rater(tmp_path_factory):
    return write_rater(tmp_path_factory.mktemp("rater"))


def test_a_clone_gives_a_prompt_set(tmp_path, capsys):
    out = tmp_path / "released.yaml"
    assert main(["from-mmssr", str(write_clone(tmp_path / "clone")), "--out", str(out)]) == 0
    assert yaml.safe_load(out.read_text()) == {
        "capability": "From 0 to 5, what does one learn here about {phrase}?",
        "style": "Ways of talking: ~ <{styles}>\n\nWhich? ",
        "style_separator": "; , ",
        "styles": STYLES,
        "conversation": "flat",
        "labels": {
            "question": "Asked: ",
            "strip": "Asked: ",
            "unless": ["<image>\nClue:", "Clue:"],
            "between": " ~ ",
            "answer": "Said: ",
        },
        "joiner": "\n\n",
        "after_image": "\n",
        "system": "You grade.",
        "image": "single",
        "max_new_tokens": 77,
    }
    queries = load_queries(out)
    assert queries.capability[2] == "From 0 to 5, what does one learn here about logical deduction?"
    assert queries.style.startswith("Ways of talking: ~ <multi-choice; , coordinate; , yes/no")
    assert (queries.view, queries.max_new_tokens) == ("single", 77)
    assert not list(tmp_path.rglob("executed")), "the clone was run"
    assert main(["from-mmssr", str(tmp_path / "clone"), "--out", str(out)]) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cap_query =", "question =", r"config/ss.py has not, .* the text `cap_query`"),
        ("{cap_keyword}?", "?", "the place of the capability"),
        ('cap_instruct = ""', 'cap_instruct = "Grade."', "`cap_instruct` is a text before the conversation"),
        ('"yes/no"', '"maybe"', "a joined list of the styles multi-choice, coordinate"),
        ("def format_convs", "def format_talk", "the function `format_convs`"),
        ("rounds.append(", "rounds.extend(", "a round as question, separator and label of the answer"),
        ("{conv.strip('Asked: ')}", "{conv.split()[0]}", "the question after its label"),
        ('f"Said: "', "os.name", "the label of the answer as a constant"),
        ("seps[1] + query", "seps[0] + query", "the query follows after ' ~ ', the rounds after"),
        ('system_message = "You grade."', "pass", "the text `system_message`"),
        ("max_new_tokens=77", "num_beams=1", "`generate` with `max_new_tokens`"),
        ("image_processor.preprocess(image, ", "prepared(image, ", "how an image is prepared"),
        ('nl_tokens = tokenizer("\\n").input_ids', "nl_tokens = [198]", "the text of `nl_tokens`"),
        ("def eval_model(args):", "def eval_model(args:", "is not valid Python"),
    ],
)
def test_a_clone_of_another_form_is_an_error_that_names_the_piece(tmp_path, old, new, message, capsys):
    with pytest.raises(PromptError, match=message):
        from_mmssr(write_clone(tmp_path / "clone", old, new), tmp_path / "p.yaml")
    assert main(["from-mmssr", str(tmp_path / "clone"), "--out", str(tmp_path / "p.yaml")]) == 2
    assert capsys.readouterr().err.startswith("error: ") and not (tmp_path / "p.yaml").exists()


def test_no_clone_and_an_odd_ending_are_errors(tmp_path):
    with pytest.raises(
        PromptError, match=r"config/ss.py cannot be read \(No such file.*clone of the released"
    ):
        from_mmssr(tmp_path, tmp_path / "p.yaml")
    with pytest.raises(PromptError, match=r"must be \.yaml"):
        from_mmssr(write_clone(tmp_path / "clone"), tmp_path / "p.txt")


def test_tiles_and_another_order_of_the_styles_are_read(tmp_path):
    clone = write_clone(
        tmp_path / "a", "image_processor.preprocess(image, ", "process_images([image], image_processor, "
    )
    assert from_mmssr(clone, tmp_path / "a.yaml").view == "anyres"
    clone = write_clone(tmp_path / "b", '"multi-choice", "coordinate"', '"coordinate", "multi-choice"')
    queries = from_mmssr(clone, tmp_path / "b.yaml")
    assert "<coordinate; , multi-choice; , yes/no" in queries.style
    assert list(queries.styles) == list(STYLES)


def test_the_whole_prompt_is_the_one_that_the_clone_writes(prompts, rater):
    queries = load_queries(prompts)
    renderer = Vlm(rater, device="cpu", view=queries.view).renderer
    sample = Sample(0, "a", "t", (picture(0),), tuple(Turn(*pair) for pair in ROUNDS))
    question = queries.capability[3]
    text = format_convs(ROUNDS) + "\n\n" + question
    before, after = text.split("<image>")
    assert before == "Asked: " and "\n\nClue: look up.\nWhere is it? ~ Said: Left\n\nAsked: Why? ~ " in after
    assert "is the sky up here? ~ " in after and "Asked: <image>\nAsked often" in text
    head = "<|im_start|>system\nYou grade.<|im_end|>\n<|im_start|>user\n"
    tail = "<|im_end|>\n<|im_start|>assistant\n"
    tokens = renderer.tokenizer.encode
    image = [renderer.image_id] * 5  # four patches and a newline
    expected = [*tokens(head + before), *image, *tokens("\n"), *tokens(after + tail)]
    context = renderer.context(sample, queries.flat)
    asked = with_prompt(context, renderer.query_tokens(question, queries.flat)).input_ids.tolist()
    assert asked == expected
    own = Sample(0, "a", "t", (), (Turn("Why?", "So"),), system="Own.")
    assert renderer.tokenizer.decode(renderer.context(own, queries.flat).input_ids).startswith(
        "<|im_start|>system\nOwn.<|im_end|>"
    )


def test_the_text_after_an_image_has_tokens_of_its_own(prompts, rater):
    """With a tokenizer that has a token for two newlines, the one after the image stays apart."""
    from tokenizers import AddedToken

    renderer = Vlm(rater, device="cpu").renderer
    renderer.tokenizer.backend_tokenizer.add_tokens([AddedToken("\n\n", special=False)])
    pair = renderer.tokenizer.convert_tokens_to_ids("\n\n")
    sample = Sample(0, "a", "t", (picture(0),), (Turn("<image>\nWhy?", "So"),))
    ids = renderer.context(sample, load_queries(prompts).flat).input_ids.tolist()
    newline = renderer.tokenizer.encode("\n")[0]
    after = len(ids) - ids[::-1].index(renderer.image_id)
    assert ids[after : after + 2] == [newline, newline] and ids.count(pair) == 1  # before the query


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    records = []
    for n in range(8):
        picture(n, (56, 28) if n % 2 else (28, 28)).save(folder / f"{n}.png")
        talk = [text for pair in (ROUNDS[0], ROUNDS[1 + n % 2]) for text in pair]
        turns = [
            {"from": ("human", "gpt")[at % 2], "value": text.replace("sky", f"sky of {n}")}
            for at, text in enumerate(talk)
        ]
        records.append({"id": f"s{n}", "image": f"{n}.png", "source": "t", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    build_pool(folder / "data.json", folder, folder / "pool")
    return Pool.open(folder / "pool")


@pytest.fixture(scope="module")
def scores(pool, rater, tmp_path_factory):
    """A function from settings to (scores int[8, 14], metadata)."""
    folder = tmp_path_factory.mktemp("scores")

    def scored(**settings):
        out = folder / str(len(list(folder.iterdir())))
        summary = score_capabilities(pool, rater, out, device="cpu", **settings)
        assert summary["null_scores"] == 0 and not summary["unparsed"]
        signal = read_signal(out, pool.hash)
        if settings.get("mode") != "official":
            assert summary["mean_digit_mass"] > 0.999
        found = np.stack([signal[f"cap_{key}"].to_numpy() for key in CAPABILITY_KEYS], axis=1)
        return found, read_metadata(out)

    return scored


def test_scores_on_the_protocol_are_the_official_ones_and_others_differ(scores, prompts, tmp_path):
    on, meta = scores(prompts=str(prompts))
    official, official_meta = scores(prompts=str(prompts), mode="official")
    shares = np.unique(on, return_counts=True)[1] / on.size
    assert len(shares) >= 2 and shares.max() < 0.8, "the digit does not depend on the text"
    np.testing.assert_array_equal(on, official)
    assert meta["image_mode"] == "base" and official_meta["max_new_tokens"] == 77
    off, _ = scores(prompts="official_flat")
    assert (off != on).mean() > 0.2
    content = yaml.safe_load(prompts.read_text())
    for key, value in {
        "labels": {},
        "joiner": "\n",
        "after_image": "",
        "system": "You are a helpful assistant.",
    }.items():
        path = tmp_path / f"{key}.yaml"
        path.write_text(yaml.safe_dump(content | {key: value}))
        changed, changed_meta = scores(prompts=str(path))
        assert (changed != on).any(), f"`{key}` has no effect"
        assert changed_meta["prompt_hash"] != meta["prompt_hash"]


def test_the_view_of_the_image_is_the_settings_else_the_prompt_sets(scores, prompts, tmp_path):
    on, _ = scores(prompts=str(prompts))
    tiled, meta = scores(prompts=str(prompts), image="anyres")
    assert meta["image_mode"] == "anyres" and (tiled != on)[1::2].any()
    path = tmp_path / "tiled.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(prompts.read_text()) | {"image": "anyres"}))
    again, meta = scores(prompts=str(path))
    assert meta["image_mode"] == "anyres"
    np.testing.assert_array_equal(again, tiled)


def test_views_stand_for_image_modes():
    assert [mode_of_view(None, mode) for mode in ("base", "anyres", "pad")] == ["base", "anyres", "pad"]
    assert [mode_of_view("single", mode) for mode in ("base", "anyres", "pad")] == ["base", "base", "pad"]
    assert mode_of_view("anyres", "base") == mode_of_view("anyres", "anyres") == "anyres"
    with pytest.raises(ValueError, match="no tiles"):
        mode_of_view("anyres", "crop")
    with pytest.raises(ValueError, match="must be one of single, anyres"):
        mode_of_view("base", "base")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversation": "turns"}, "`labels` is for one user turn"),
        (
            {"labels": {"questions": "Q"}},
            "`labels` may have the keys question, answer, between, unless, strip",
        ),
        ({"labels": {"answer": 3}}, "`labels.answer` must be text, got 3"),
        ({"labels": {"unless": "Hint:"}}, "`labels.unless` must be a list"),
        ({"joiner": None}, "`joiner` must be text, got None"),
        ({"image": "base"}, "`image` must be one of single, anyres, got 'base'"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be a whole number of at least 1"),
        ({"styles": "all"}, "`styles` must give a phrase for each"),
        ({"label": {}}, "must have exactly the keys"),
    ],
)
def test_prompt_sets_of_the_protocol_are_checked(prompts, tmp_path, change, message):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(prompts.read_text()) | change))
    with pytest.raises(PromptError, match=message):
        load_queries(path)


def test_the_list_in_the_query_may_be_written_unlike_the_answer(prompts, tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(prompts.read_text()) | {"candidates_separator": " | "}))
    queries = load_queries(path)
    assert "<multi-choice | coordinate | yes/no" in queries.style
    assert queries.style_answer(["coordinate", "yes_no"]) == "coordinate; , yes/no"
    assert len(CAPABILITIES) == len(queries.capability)
