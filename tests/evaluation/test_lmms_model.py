"""The plug-in for lmms-eval: requests of several tasks in, answers in their order out."""

import numpy as np
import pytest
from PIL import Image

from curation.mini.tokenizer import build_tokenizer
from training.models import build_tiny

pytest.importorskip("lmms_eval")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from evaluation.lmms_model import WinnowModel

    tiny = build_tiny(tmp_path_factory.mktemp("t"), build_tokenizer(), hidden=48, layers=2, vision_layers=1)
    # lmms-eval's command line gives strings
    return WinnowModel(tiny, batch_size="3", max_batch_tokens="400", loaders="1", device="cpu")


def requests(model, n):
    from lmms_eval.api.instance import Instance

    def messages(doc):
        pixels = np.random.default_rng(doc["seed"]).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        text = {"type": "text", "text": doc["question"]}
        return [{"role": "user", "content": [{"type": "image", "url": Image.fromarray(pixels)}, text]}]

    names = ("colours", "shapes")
    model.task_dict = {
        name: {"test": [{"seed": i, "question": f"{name} ?" + " dog" * (i % 4)} for i in range(n)]}
        for name in names
    }
    return [
        Instance(
            "generate_until",
            ("", messages, {"max_new_tokens": 3 + k}, i, name, "test"),
            0,
            {"task": name, "doc_id": i, "repeats": 1},
        )
        for i in range(n)
        for k, name in enumerate(names)
    ]


def test_answers_come_in_the_order_of_the_requests(model):
    asked = requests(model, 7)
    counted = []
    model.on_progress = lambda done, total: counted.append((done, total))
    found = model.generate_until(asked)
    want = [
        model.answerer.answer([request.args[1](model.task_dict[task]["test"][i])], **generation)[0]
        for request in asked
        for _, _, generation, i, task, _ in [request.args]
    ]
    assert found == want and len(set(found)) > 1
    assert counted[-1] == (14, 14) and [done for done, _ in counted] == sorted({done for done, _ in counted})


def test_arguments_and_properties(model):
    assert (model.batch_size, model.answerer.max_batch_tokens, model.loaders) == (3, 400, 1)
    assert str(model.device) == "cpu" and model.answerer.template == "training"


def test_what_cannot_be_done_says_so(model):
    with pytest.raises(NotImplementedError, match="likelihoods"):
        model.loglikelihood([])
    with pytest.raises(NotImplementedError, match="single-round"):
        model.generate_until_multi_round([])


def test_lmms_eval_finds_the_model_under_its_name():
    from evaluation.lmms_model import WinnowModel
    from evaluation.model import manifest

    found = manifest()
    assert found.model_id == "winnow"
    assert found.chat_class_path == f"{WinnowModel.__module__}.{WinnowModel.__name__}"
