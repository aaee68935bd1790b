"""A local mirror of the benchmarks' repositories with made-up rows, and answers that are right or wrong.

Repository ids, configurations, splits and columns are the real ones (`benchmark_rows`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import benchmark_rows as b
import pyarrow.parquet as pq
import yaml
from benchmark_rows import PICTURE, REAL, TEXT, TEXTS, WHOLE, Draw, Table
from datasets import Dataset, Sequence, Value

_HUB = "lmms-lab-encoder"
_MMBENCH = {
    "index": WHOLE,
    **dict.fromkeys(("question", "hint", "answer", *"ABCD", "category"), TEXT),
    "image": PICTURE,
    **dict.fromkeys(("source", "L2-category", "comment", "split"), TEXT),
}
_POPE = {
    **dict.fromkeys(("id", "question_id", "question", "answer", "image_source"), TEXT),
    "image": PICTURE,
    "category": TEXT,
}
_BLINK = {
    **dict.fromkeys(("idx", "question", "sub_task", "prompt"), TEXT),
    **{f"image_{k}": PICTURE for k in range(1, 5)},
    "choices": TEXTS,
    **dict.fromkeys(("answer", "explanation"), TEXT),
}
_MMMU = {
    **dict.fromkeys(("id", "question", "options", "explanation"), TEXT),
    **{f"image_{k}": PICTURE for k in range(1, 8)},
    **dict.fromkeys(("img_type", "answer", "topic_difficulty", "question_type", "subfield"), TEXT),
}
_METADATA = {
    **dict.fromkeys(("category", "context", "grade"), TEXT),
    **dict.fromkeys(("img_height", "img_width"), WHOLE),
    "language": TEXT,
    "skills": TEXTS,
    **dict.fromkeys(("source", "split", "task"), TEXT),
}
_SEED_CHOICES = dict.fromkeys((f"choice_{letter}" for letter in "abcd"), TEXT)

TABLES = (
    Table(
        f"{_HUB}/MME",
        None,
        "test",
        {"question_id": TEXT, "image": PICTURE, **dict.fromkeys(("question", "answer", "category"), TEXT)},
        b.mme,
        shards=4,
    ),
    Table(
        f"{_HUB}/ai2d",
        None,
        "test",
        {"question": TEXT, "options": TEXTS, "answer": TEXT, "image": PICTURE},
        b.ai2d,
    ),
    Table(
        "Lin-Chen/MMStar",
        "val",
        "val",
        {
            "index": WHOLE,
            "question": TEXT,
            "image": PICTURE,
            **dict.fromkeys(("answer", "category", "l2_category"), TEXT),
            "meta_info": dict.fromkeys(("source", "split", "image_path"), TEXT),
        },
        b.mmstar,
        files="mmstar.parquet",
    ),
    Table(
        f"{_HUB}/ScienceQA",
        "ScienceQA-IMG",
        "test",
        {
            "image": PICTURE,
            "question": TEXT,
            "choices": TEXTS,
            "answer": WHOLE,
            **dict.fromkeys(("hint", "task", "grade", "subject", "topic", "category", "skill"), TEXT),
            **dict.fromkeys(("lecture", "solution"), TEXT),
        },
        b.scienceqa,
    ),
    Table(f"{_HUB}/MMMU", None, "validation", _MMMU, b.mmmu),
    Table(f"{_HUB}/MMMU", None, "dev", _MMMU, b.mmmu),
    Table(
        f"{_HUB}/MMVet",
        None,
        "test",
        {"question_id": TEXT, "image": PICTURE}
        | dict.fromkeys(("question", "answer", "image_source", "capability"), TEXT),
        b.mmvet,
    ),
    *(
        Table("BLINK-Benchmark/BLINK", task, split, _BLINK, b.blink(task, split))
        for task in b.BLINK_IMAGES
        for split in ("val", "test")
    ),
    Table(
        f"{_HUB}/MMT-Benchmark",
        None,
        "val",
        {
            "index": WHOLE,
            **dict.fromkeys(("question", *b.LETTERS, "answer"), TEXT),
            "image": PICTURE,
            **dict.fromkeys(("category", "l2-category", "split", "hint"), TEXT),
        },
        b.mmt,
        shards=2,
    ),
    *(
        Table(f"{_HUB}/MMBench", language, split, _MMBENCH, b.mmbench(language, split))
        for language in ("en", "cn")
        for split in ("dev", "test")
    ),
    Table(
        "",
        None,
        "dev",
        {"index": WHOLE}
        | dict.fromkeys(("question", "hint", *"ABCD", "answer", "category", "image", "source"), TEXT)
        | dict.fromkeys(("l2-category", "split"), TEXT),
        b.mmbench_v11,
        files="MMBench_DEV_EN_V11.parquet",
    ),
    Table(
        "AI4Math/MathVista",
        None,
        "testmini",
        {
            **dict.fromkeys(("pid", "question", "image"), TEXT),
            "decoded_image": PICTURE,
            "choices": TEXTS,
            "unit": TEXT,
            "precision": REAL,
            **dict.fromkeys(("answer", "question_type", "answer_type"), TEXT),
            "metadata": _METADATA,
            "query": TEXT,
        },
        b.mathvista,
    ),
    Table(
        f"{_HUB}/ChartQA",
        None,
        "test",
        {**dict.fromkeys(("type", "question", "answer"), TEXT), "image": PICTURE},
        b.chartqa,
    ),
    Table(
        f"{_HUB}/DocVQA",
        "DocVQA",
        "validation",
        {
            "questionId": TEXT,
            "question": TEXT,
            "question_types": TEXTS,
            "image": PICTURE,
            "docId": WHOLE,
            **dict.fromkeys(("ucsf_document_id", "ucsf_document_page_no"), TEXT),
            "answers": TEXTS,
            "data_split": TEXT,
        },
        b.docvqa,
    ),
    Table(
        f"{_HUB}/DocVQA",
        "InfographicVQA",
        "validation",
        {
            "questionId": TEXT,
            "question": TEXT,
            "answers": TEXTS,
            "answer_type": TEXTS,
            "image": PICTURE,
            **dict.fromkeys(("image_url", "ocr", "data_split"), TEXT),
        },
        b.infovqa,
    ),
    Table(
        f"{_HUB}/textvqa",
        None,
        "validation",
        {
            "image_id": TEXT,
            "question_id": WHOLE,
            "question": TEXT,
            "question_tokens": TEXTS,
            "image": PICTURE,
            **dict.fromkeys(("image_width", "image_height"), WHOLE),
            **dict.fromkeys(("flickr_original_url", "flickr_300k_url"), TEXT),
            "answers": TEXTS,
            "image_classes": TEXTS,
            "set_name": TEXT,
            "ocr_tokens": TEXTS,
        },
        b.textvqa,
    ),
    Table(
        "echo840/OCRBench",
        None,
        "test",
        {
            **dict.fromkeys(("dataset", "question", "question_type"), TEXT),
            "answer": TEXTS,
            "image": PICTURE,
        },
        b.ocrbench,
    ),
    Table(
        f"{_HUB}/RealWorldQA",
        None,
        "test",
        {"image": PICTURE, **dict.fromkeys(("question", "answer", "image_path"), TEXT)},
        b.realworldqa,
    ),
    Table(
        f"{_HUB}/HallusionBench",
        None,
        "image",
        {
            **dict.fromkeys(("category", "subcategory", "visual_input", "set_id", "figure_id"), TEXT),
            **dict.fromkeys(("sample_note", "question_id", "question", "gt_answer_details"), TEXT),
            **dict.fromkeys(("gt_answer", "filename"), TEXT),
            "image": PICTURE,
        },
        b.hallusionbench,
    ),
    Table(f"{_HUB}/POPE", "default", "test", _POPE, b.pope(None), files="data/test-*"),
    *(
        Table(f"{_HUB}/POPE", "Full", category, _POPE, b.pope(category))
        for category in ("adversarial", "popular", "random")
    ),
    Table(
        f"{_HUB}/GQA",
        "testdev_balanced_instructions",
        "testdev",
        dict.fromkeys(("id", "imageId", "question", "answer", "fullAnswer"), TEXT),
        b.gqa_instructions,
    ),
    Table(f"{_HUB}/GQA", "testdev_balanced_images", "testdev", {"id": TEXT, "image": PICTURE}, b.gqa_images),
    Table(
        f"{_HUB}/SEED-Bench",
        None,
        "test",
        {
            "answer": TEXT,
            **_SEED_CHOICES,
            **dict.fromkeys(("data_id", "data_type", "question", "question_id"), TEXT),
            "question_type_id": Value("int32"),
            "image": Sequence(PICTURE),
            "segment": Sequence(WHOLE),
        },
        b.seedbench,
    ),
    Table(
        f"{_HUB}/VizWiz-VQA",
        None,
        "val",
        {"question_id": TEXT, "image": PICTURE, "question": TEXT, "answers": TEXTS, "category": TEXT},
        b.vizwiz,
    ),
    Table(
        f"{_HUB}/VQAv2",
        None,
        "validation",
        {
            **dict.fromkeys(("question_type", "multiple_choice_answer"), TEXT),
            "answers": [{"answer": TEXT, "answer_confidence": TEXT, "answer_id": WHOLE}],
            "image_id": WHOLE,
            "answer_type": TEXT,
            "question_id": WHOLE,
            "question": TEXT,
            "image": PICTURE,
        },
        b.vqav2,
    ),
    Table(
        "lmms-lab-eval/MMVP",
        None,
        "train",
        {"Index": WHOLE, **dict.fromkeys(("Question", "Options", "Correct Answer"), TEXT), "image": PICTURE},
        b.mmvp,
    ),
    Table(
        f"{_HUB}/llava-bench-in-the-wild",
        None,
        "train",
        {
            **dict.fromkeys(("question_id", "question", "image_id"), TEXT),
            "image": PICTURE,
            **dict.fromkeys(("category", "caption", "gpt_answer"), TEXT),
        },
        b.llava_w,
    ),
)
"""Every split of the mirror."""


def write_mirror(folder: Path, *, rows: int = 6, repositories: Iterable[str] | None = None) -> Path:
    """Write repositories with README.md and Parquet files: all, or these ("": the data files without one).

    rows: about how many questions a split has; whole image pairs, rotation groups and kinds are kept. The
    same arguments give the same bytes. Returns the folder.
    """
    wanted = None if repositories is None else set(repositories)
    chosen = [table for table in TABLES if wanted is None or table.repo in wanted]
    for table in chosen:
        _write(folder / table.repo, table, rows)
    for repo in dict.fromkeys(table.repo for table in chosen if table.repo):
        _write_readme(folder / repo, [table for table in chosen if table.repo == repo])
    return folder


def _write(folder: Path, table: Table, rows: int) -> None:
    draw = Draw(f"{table.repo} {table.config} {table.split}")
    data = Dataset.from_list(list(table.rows(draw, rows)), features=table.features)
    for k in range(table.shards):
        name = f"{k:05d}-of-{table.shards:05d}.parquet"
        path = folder / (table.pattern.removesuffix("*") + name if "*" in table.pattern else table.pattern)
        path.parent.mkdir(parents=True, exist_ok=True)
        shard = data.shard(table.shards, k, contiguous=True)
        pq.write_table(shard.with_format("arrow")[:], path)


def _write_readme(folder: Path, tables: Iterable[Table]) -> None:
    """The card of a repository; its front matter says which files a configuration's splits have."""
    configs: dict[str, list[dict[str, str]]] = {}
    for table in tables:
        files = {"split": table.split, "path": table.pattern}
        configs.setdefault(table.config or "default", []).append(files)
    entries = [{"config_name": name, "data_files": files} for name, files in configs.items()]
    front = yaml.safe_dump({"license": "cc-by-4.0", "configs": entries}, sort_keys=False)
    (folder / "README.md").write_text(f"---\n{front}---\n\n# {folder.name}\n\nMade-up rows.\n")


Doc = Mapping[str, Any]

NONSENSE = "qqqq"
"""No reference answer contains it or is near it."""


def gold(task: str, doc: Doc) -> str:
    """The reference answer in the form that the benchmark's prompt asks for: it reaches the maximum."""
    return _answers(task)[0](doc)


def wrong(task: str, doc: Doc) -> str:
    """An answer in the same form that is wrong: it reaches the minimum."""
    return _answers(task)[1](doc)


def _answers(task: str) -> tuple[Callable[[Doc], str], Callable[[Doc], str]]:
    """Right and wrong answer of a task, by the benchmark in its name. Raises KeyError for an unknown one."""
    for pattern, pair in _ANSWERS.items():
        if re.search(pattern, task):
            return pair
    raise KeyError(f"task {task!r} has no reference answers in tests/support/benchmark_mirror.py")


def _letter(doc: Doc) -> str:
    return doc["answer"].strip("()")


def _at(doc: Doc) -> str:
    """The letter of an answer that is a position among the options."""
    return b.LETTERS[int(doc["answer"])]


def _swap(right: Callable[[Doc], str]) -> Callable[[Doc], str]:
    """Another letter; every question has the options A and B."""
    return lambda doc: "B" if right(doc).strip("()").upper() == "A" else "A"


def _nonsense(_: Doc) -> str:
    return NONSENSE


def _opposite(right: Callable[[Doc], str]) -> Callable[[Doc], str]:
    return lambda doc: "no" if right(doc).lower() == "yes" else "yes"


def _mmmu(doc: Doc) -> str:
    return doc["answer"]


def _mmmu_wrong(doc: Doc) -> str:
    return _swap(_letter)(doc) if doc["question_type"] == "multiple-choice" else "9999"


def _mathvista(doc: Doc) -> str:
    return b.LETTERS[doc["choices"].index(doc["answer"])] if doc["choices"] else doc["answer"]


def _mathvista_wrong(doc: Doc) -> str:
    if doc["choices"]:
        return _swap(_mathvista)(doc)
    return "[1, 2]" if doc["answer_type"] == "list" else str(int(float(doc["answer"])) + 7)


def _mmvet(doc: Doc) -> str:
    """All elements of the first alternative."""
    return doc["answer"].split("<OR>")[0].replace("<AND>", " and ")


def _first(column: str) -> Callable[[Doc], str]:
    return lambda doc: doc[column][0]


def _most_frequent(doc: Doc) -> str:
    return max(doc["answers"], key=doc["answers"].count)


def _yes_no(doc: Doc) -> str:
    return "Yes" if doc["gt_answer"] == "1" else "No"


def _realworldqa_wrong(doc: Doc) -> str:
    return _swap(_letter)(doc) if doc["answer"].isalpha() else "9999"


def _mmvp_wrong(doc: Doc) -> str:
    return "(b)" if doc["Correct Answer"] == "(a)" else "(a)"


_ANSWERS: dict[str, tuple[Callable[[Doc], str], Callable[[Doc], str]]] = {
    "mmbench|mmstar|mmt|seed": (_letter, _swap(_letter)),
    "blink": (lambda doc: doc["answer"], lambda doc: f"({_swap(_letter)(doc)})"),
    "ai2d|scienceqa": (_at, _swap(_at)),
    "mmmu": (_mmmu, _mmmu_wrong),
    "mathvista": (_mathvista, _mathvista_wrong),
    "mmvet": (_mmvet, _nonsense),
    "mme|pope": (lambda doc: doc["answer"], _opposite(lambda doc: doc["answer"])),
    "chartqa|gqa": (lambda doc: doc["answer"], _nonsense),
    "docvqa|infovqa": (_first("answers"), _nonsense),
    "textvqa|vizwiz": (_most_frequent, _nonsense),
    "ocrbench": (_first("answer"), _nonsense),
    "vqav2": (lambda doc: doc["multiple_choice_answer"], _nonsense),
    "realworldqa": (lambda doc: doc["answer"], _realworldqa_wrong),
    "hallusion": (_yes_no, _opposite(_yes_no)),
    "mmvp": (lambda doc: doc["Correct Answer"], _mmvp_wrong),
    "llava": (lambda doc: doc["gpt_answer"], _nonsense),
}
