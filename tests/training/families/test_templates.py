"""Which shipped template a processor gets where a family has several, and what is said of unknown models."""

from types import SimpleNamespace

import pytest

from training import families


def processor(vocabulary=(), template=None):
    tokenizer = SimpleNamespace(get_vocab=lambda: dict.fromkeys(vocabulary, 0), chat_template=None)
    return SimpleNamespace(tokenizer=tokenizer, chat_template=template)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (processor(), "llava_1_5"),
        (processor(template="{{ 'USER: ' }}"), "llava_1_5"),
        (processor(template="{{ '[INST] ' }}"), "llava_next_mistral"),
        (processor(["<|im_start|>"]), "llava_next_qwen"),
        (processor(["<|start_header_id|>"]), None),
    ],
)
def test_llava_next_is_told_by_its_tokenizer_and_its_own_template(given, name):
    assert families.find("llava_next").template(given) == name


def test_onevision_has_a_template_for_qwens_marks_only():
    family = families.find("llava_onevision")
    assert family.template(processor(["<|im_start|>"])) == "llava_onevision"
    assert family.template(processor()) is None


def test_unknown_models_are_named_with_what_there_is():
    with pytest.raises(families.UnknownFamily, match=r"'bert'.*llava, .*smolvlm.*training/families"):
        families.of_config(SimpleNamespace(model_type="bert"))
    with pytest.raises(families.UnknownFamily, match="'SimpleNamespace'"):
        families.of_processor(processor())


def test_each_model_type_and_processor_belongs_to_one_family():
    for names in ("model_types", "processors"):
        listed = [name for family in families.FAMILIES for name in getattr(family, names)]
        assert len(listed) == len(set(listed))
