"""Rows of made-up benchmarks with the columns of the real ones, and their variety.

Columns and types are those that the scorers of lmms-eval 0.7.3 read. The rows have what breaks a scorer: two
to six options, missing hints, images of many sizes and modes, several and repeated images, open questions,
answers of every type.
"""

import base64
import io
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Features, Image, Sequence, Value
from PIL import Image as Pictures

Row = dict[str, Any]
Columns = Mapping[str, Any]

TEXT, WHOLE, REAL, PICTURE = Value("string"), Value("int64"), Value("float64"), Image()
TEXTS = Sequence(Value("string"))
COLOURS = ("red", "green", "blue", "white", "black", "grey")
LETTERS = "ABCDEFGHI"
MME_CATEGORIES = (
    *(
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    *("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
)
"""Ten of perception and four of cognition, 200 points each."""
MMSTAR_CATEGORIES = {
    "coarse perception": ("image scene and topic", "image style & quality", "image emotion"),
    "fine-grained perception": ("object counting", "recognition", "localization"),
    "instance reasoning": (
        "single-instance reasoning",
        "cross-instance attribute reasoning",
        "cross-instance relation reasoning",
    ),
    "logical reasoning": ("code & sequence reasoning", "diagram reasoning", "common reasoning"),
    "science & technology": (
        "biology & chemistry & physics",
        "electronics & energy & mechanical eng.",
        "geography & earth science & agriculture",
    ),
    "math": ("geometry", "numeric commonsense and calculation", "statistical reasoning"),
}
BLINK_IMAGES = {
    "Art_Style": 3,
    "Counting": 1,
    "Forensic_Detection": 4,
    "Functional_Correspondence": 2,
    "IQ_Test": 1,
    "Jigsaw": 3,
    "Multi-view_Reasoning": 2,
    "Object_Localization": 1,
    "Relative_Depth": 1,
    "Relative_Reflectance": 1,
    "Semantic_Correspondence": 2,
    "Spatial_Relation": 1,
    "Visual_Correspondence": 2,
    "Visual_Similarity": 3,
}
"""BLINK's sub-tasks, which are configurations of its repository: number of images of a question."""


class Draw:
    """A seeded source of pictures and choices."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def picture(self) -> Row:
        """Encoded picture of random size, mode and format, as a column of images holds it."""
        size = (self._random.randint(28, 260), self._random.randint(28, 260))
        colours = [tuple(self._random.randrange(256) for _ in range(3)) for _ in range(2)]
        picture = Pictures.new("RGB", size, colours[0])
        picture.paste(colours[1], (size[0] // 4, size[1] // 4, size[0] // 2 + 1, size[1] // 2 + 1))
        mode, form = self._random.choice(
            [("RGB", "JPEG"), ("RGB", "PNG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("L", "JPEG")]
        )
        buffer = io.BytesIO()
        picture.convert(mode).save(buffer, form)
        return {"bytes": buffer.getvalue(), "path": None}

    def pictures(self, n: int, of: int) -> dict[str, Row | None]:
        """Columns image_1 to image_`of`, of which the first n have a picture."""
        return {f"image_{k}": self.picture() if k <= n else None for k in range(1, of + 1)}

    def below(self, n: int) -> int:
        return self._random.randrange(n)

    def options(self, most: int) -> list[str]:
        """Two to `most` different colours."""
        return self._random.sample(COLOURS, self._random.randint(2, most))


Rows = Callable[[Draw, int], Iterable[Row]]


@dataclass(frozen=True)
class Table:
    """One split of a repository: its columns, and the function that makes about n rows of it.

    `files`: pattern of its Parquet files, as the README of the repository gives it; without a repository, a
    data file of the mirror itself.
    """

    repo: str
    config: str | None
    split: str
    columns: Columns
    rows: Rows
    shards: int = 1
    files: str = ""

    @property
    def pattern(self) -> str:
        return self.files or f"{self.config or 'data'}/{self.split}-*"

    @property
    def features(self) -> Features:
        return Features(dict(self.columns))


def mme(draw: Draw, n: int) -> Iterable[Row]:
    """Every category with n // 6 + 1 images, each with a question for yes and one for no."""
    for category in MME_CATEGORIES:
        for k in range(n // 6 + 1):
            image = draw.picture()
            for thing, answer in (("square", "Yes"), ("circle", "No")):
                yield {
                    "question_id": f"{category}/{k:04d}.png",
                    "image": image,
                    "question": f"Is there a {thing} in this image? Please answer yes or no.",
                    "answer": answer,
                    "category": category,
                }


def ai2d(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        options = draw.options(6)
        yield {
            "question": f"Which part is at label {i}?",
            "options": options,
            "answer": str(draw.below(len(options))),
            "image": draw.picture(),
        }


def mmstar(draw: Draw, n: int) -> Iterable[Row]:
    """Of each of the 18 fine categories n // 6 rows, and one more of every third: unequal category sizes."""
    kinds = [(coarse, fine) for coarse, all_fine in MMSTAR_CATEGORIES.items() for fine in all_fine]
    order = [kind for at, kind in enumerate(kinds) for _ in range(max(n // 6, 1) + (at % 3 == 0))]
    for i, (coarse, fine) in enumerate(order):
        options = ", ".join(f"{letter}: {text}" for letter, text in zip("ABCD", COLOURS, strict=False))
        yield {
            "index": i,
            "question": f"<image 1>What is shown in figure {i}?\nOptions: {options}",
            "image": draw.picture(),
            "answer": "ABCD"[draw.below(4)],
            "category": coarse,
            "l2_category": fine,
            "meta_info": {"source": "made up", "split": "val", "image_path": f"images/{i}.jpg"},
        }


def scienceqa(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        choices = draw.options(5)
        yield {
            "image": draw.picture(),
            "question": f"Which of these is it in case {i}?",
            "choices": choices,
            "answer": draw.below(len(choices)),
            "hint": "" if i % 2 else "A hint stands here.",
            "task": "closed choice",
            "grade": "grade4",
            "subject": "natural science",
            **dict.fromkeys(("topic", "category", "skill"), "physics"),
            **dict.fromkeys(("lecture", "solution"), ""),
        }


MMMU_KINDS: tuple[tuple[str, str, list[str], str, int], ...] = (
    ("Accounting", "Look at <image 1>. Which colour is the square?", ["red", "green", "blue"], "B", 1),
    ("Accounting", "See <image 1> and <image 2>. Which is larger?", ["<image 1>", "<image 2>"], "A", 2),
    ("Math", "Compute the length from <image 1>.", [], "42", 1),
    ("Art", "First <image 1>, then once more <image 1>: what is it?", ["cube", "ball"], "A", 1),
    ("Basic_Medical_Science", "After <image 2> look at <image 1>. Which?", ["p", "q", "r", "s"], "C", 2),
    ("Economics", "Read the total in <image 1>.", [], "1,250", 1),
    ("Electronics", "Which of <image 3>, <image 1>, <image 2>?", list(COLOURS), "F", 3),
    ("Geography", "Name the element in <image 1>.", [], "oxygen", 1),
)
"""Subject, question, options (none: an open question), answer, number of images."""


def mmmu(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(max(n, len(MMMU_KINDS))):
        subject, question, options, answer, images = MMMU_KINDS[i % len(MMMU_KINDS)]
        yield {
            "id": f"validation_{subject}_{i + 1}",
            "question": question if i < len(MMMU_KINDS) else f"{question} (variant {i})",
            "options": str(options),
            "explanation": "",
            **draw.pictures(images, of=7),
            "img_type": "['Plots and Charts']",
            "answer": answer,
            "topic_difficulty": ("Easy", "Medium", "Hard")[i % 3],
            "question_type": "multiple-choice" if options else "open",
            "subfield": subject,
        }


MMVET_KINDS = (
    ("What is x in the equation?", "-1<AND>-5", "ocr,math"),
    ("What is this animal?", "cat<OR>kitten", "rec"),
    ("What are the players' numbers?", "7<AND>10<OR>seven<AND>ten", "rec,ocr"),
    ("Describe the scene.", "A red square lies on a green table.", "rec,know,gen"),
)
"""Question, answer, capabilities. Elements are joined by <AND>, alternatives by <OR>."""


def mmvet(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(max(n, len(MMVET_KINDS))):
        question, answer, capability = MMVET_KINDS[i % len(MMVET_KINDS)]
        yield {
            "question_id": f"v1_{i}",
            "image": draw.picture(),
            "question": question if i < len(MMVET_KINDS) else f"{question} (variant {i})",
            "answer": answer,
            "image_source": "made up",
            "capability": capability,
        }


def blink(task: str, split: str) -> Rows:
    """Rows of one sub-task; the answers of split test are hidden, as in the original."""

    def rows(draw: Draw, n: int) -> Iterable[Row]:
        for i in range(max(n // 3, 2)):
            choices = draw.options(4)
            listed = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, choices, strict=False))
            answer = f"({LETTERS[draw.below(len(choices))]})"
            yield {
                "idx": f"{split}_{task}_{i + 1}",
                "question": f"Which one, in case {i}?",
                "sub_task": task,
                "prompt": f"Which one, in case {i}? Select from the following choices.\n{listed}",
                **draw.pictures(BLINK_IMAGES[task], of=4),
                "choices": choices,
                "answer": answer if split == "val" else "hidden",
                "explanation": "",
            }

    return rows


def mmt(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        options = draw.options(6)
        yield {
            "index": i,
            "question": f"Which colour has object {i}?",
            **{letter: options[k] if k < len(options) else "" for k, letter in enumerate(LETTERS)},
            "answer": LETTERS[draw.below(len(options))],
            "image": draw.picture(),
            "category": f"colour_{i % 4}",
            "l2-category": ("ocr", "counting", "threed")[i % 3],
            "split": "VAL",
            "hint": "",
        }


def mmbench(language: str, split: str) -> Rows:
    """Groups of two rotations: the copy with index + 1,000,000 has its options shifted by one."""
    asked = {"en": "Which colour has object {}?", "cn": "物体{}是什么颜色"}[language]

    def rows(draw: Draw, n: int) -> Iterable[Row]:
        groups = [(draw.options(4), draw.picture(), draw.below(2)) for _ in range(max(n // 2, 2))]
        for rotation in range(2):
            for i, (options, image, right) in enumerate(groups):
                turned = options[rotation:] + options[:rotation]
                answer = LETTERS[turned.index(options[right])]
                yield {
                    "index": i + 1_000_000 * rotation,
                    "question": asked.format(i),
                    "hint": "nan" if i % 2 else "A hint stands here.",
                    "answer": answer if split == "dev" else "nan",
                    **{letter: turned[k] if k < len(turned) else "nan" for k, letter in enumerate("ABCD")},
                    "category": ("ocr", "action_recognition", "object_localization")[i % 3],
                    "image": image,
                    "source": "made up",
                    "L2-category": ("finegrained_perception", "coarse_perception")[i % 2],
                    "comment": "nan",
                    "split": split,
                }

    return rows


def mmbench_v11(draw: Draw, n: int) -> Iterable[Row]:
    """As in the published table: images are base64 text, a rotated copy names the row with its image.

    Groups of as many rotations as options; what a question lacks is null.
    """
    for i in range(max(n // 2, 2)):
        options, image = draw.options(4), draw.picture()
        right = options[draw.below(len(options))]
        for rotation in range(len(options)):
            turned = options[rotation:] + options[:rotation]
            yield {
                "index": i + 1_000_000 * rotation,
                "question": f"Which colour has object {i}?",
                "hint": None if i % 2 else "A hint stands here.",
                **dict(zip("ABCD", (*turned, None, None), strict=False)),
                "answer": LETTERS[turned.index(right)],
                "category": "attribute_recognition",
                "image": str(i) if rotation else base64.b64encode(image["bytes"]).decode(),
                "source": "made up",
                "l2-category": "finegrained_perception (instance-level)",
                "split": "dev",
            }


MATHVISTA_KINDS: tuple[tuple[str, str, str, float | None, list[str] | None, str | None], ...] = (
    ("What is the area?", "integer", "4", None, None, None),
    ("Is it a square?", "text", "no", None, ["yes", "no"], None),
    ("What is the height?", "float", "1.2", 1.0, None, "cm"),
    ("Between which years is the peak?", "list", "[2007, 2008]", None, None, None),
    ("What is the fraction?", "float", "0.57", 2.0, None, None),
    ("What is the angle?", "text", "60°", None, ["30°", "45°", "60°", "90°", "120°"], "degrees"),
    ("How many are below zero?", "integer", "-3", None, None, None),
)
"""Question, type of the answer, answer, precision, choices, unit."""


def mathvista(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(max(n, len(MATHVISTA_KINDS))):
        question, kind, answer, precision, choices, unit = MATHVISTA_KINDS[i % len(MATHVISTA_KINDS)]
        question = question if i < len(MATHVISTA_KINDS) else f"{question} (variant {i})"
        yield {
            "pid": str(i + 1),
            "question": question,
            "image": f"images/{i + 1}.jpg",
            "decoded_image": draw.picture(),
            "choices": choices,
            "unit": unit,
            "precision": precision,
            "answer": answer,
            "question_type": "multi_choice" if choices else "free_form",
            "answer_type": kind,
            "metadata": {
                "category": "math-targeted-vqa",
                "context": "geometry diagram",
                "grade": "high school",
                "img_height": 100,
                "img_width": 100,
                "language": "english",
                "skills": ["geometry reasoning", "arithmetic reasoning"][: 1 + i % 2],
                "source": "made up",
                "split": "testmini",
                "task": "geometry problem solving",
            },
            "query": f"Question: {question}",
        }


def chartqa(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        yield {
            "type": ("human_test", "augmented_test")[i % 2],
            "question": f"What is the value of bar {i}?",
            "answer": ("14", "Yes", "0.57", "70%", "2,500", "Dark blue")[i % 6],
            "image": draw.picture(),
        }


def docvqa(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        yield {
            "questionId": str(100 + i),
            "question": f"What is the date in line {i}?",
            "question_types": ["form", "handwritten"],
            "image": draw.picture(),
            "docId": i,
            "ucsf_document_id": f"ffbf{i:04d}",
            "ucsf_document_page_no": str(i),
            "answers": [["1/8/93"], ["jan 8", "January 8"], ["University of Quito", "the university"]][i % 3],
            "data_split": "val",
        }


def infovqa(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        yield {
            "questionId": str(200 + i),
            "question": f"How many are in group {i}?",
            "answers": [["46%"], ["three", "3"], ["Facebook, Twitter"]][i % 3],
            "answer_type": ["single span"],
            "image": draw.picture(),
            "image_url": "",
            "ocr": "",
            "data_split": "val",
        }


def textvqa(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        yield {
            "image_id": f"{i:016x}",
            "question_id": 34602 + i,
            "question": f"what brand is sign {i}?",
            "question_tokens": ["what", "brand"],
            "image": draw.picture(),
            "image_width": 100,
            "image_height": 100,
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "answers": [["nokia"] * 8 + ["toshiba"] * 2, ["the 7"] * 4 + ["seven"] * 3 + ["7up"] * 3][i % 2],
            "image_classes": ["sign"],
            "set_name": "val",
            "ocr_tokens": ["NOKIA"],
        }


OCRBENCH_KINDS = (
    ("IIIT5K", "Regular Text Recognition", ["CENTRE"]),
    ("svt", "Scene Text-centric VQA", ["Coca Cola", "coca-cola"]),
    ("docVQA", "Doc-oriented VQA", ["$1,250.00"]),
    ("SROIE", "Key Information Extraction", ["25/12/2018"]),
    ("HME100k", "Handwritten Mathematical Expression Recognition", ["x ^ { 2 } + 1"]),
)


def ocrbench(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(max(n, len(OCRBENCH_KINDS))):
        source, kind, answers = OCRBENCH_KINDS[i % len(OCRBENCH_KINDS)]
        yield {
            "dataset": source,
            "question": f"what is written in image {i}?",
            "question_type": kind,
            "answer": answers,
            "image": draw.picture(),
        }


def realworldqa(draw: Draw, n: int) -> Iterable[Row]:
    letter = "Please answer directly with only the letter of the correct option and nothing else."
    word = "Please answer directly with a single word or number."
    for i in range(n):
        yield {
            "image": draw.picture(),
            "question": (
                f"How many cars are in lane {i}? {word}"
                if i % 2
                else f"Where is car {i}?\n\nA. left\nB. right\nC. ahead\n{letter}"
            ),
            "answer": "3" if i % 2 else "ABC"[draw.below(3)],
            "image_path": f"{i}.webp",
        }


def hallusionbench(draw: Draw, n: int) -> Iterable[Row]:
    """Sets of two figures with two questions each."""
    for i in range(4 * max(n // 4, 1)):
        group, figure, question = i // 4, i // 2 % 2, i % 2
        yield {
            "category": ("VD", "VS")[group % 2],
            "subcategory": ("illusion", "chart")[group % 2],
            "visual_input": "1",
            "set_id": str(group),
            "figure_id": str(figure),
            "sample_note": "circle",
            "question_id": str(question),
            "question": "Are the two circles equally large?",
            "gt_answer_details": "They are equally large.",
            "gt_answer": str((figure + question) % 2),
            "filename": f"{group}_{figure}.png",
            "image": draw.picture(),
        }


def pope(category: str | None) -> Rows:
    """Half yes, half no; without a category, all three in turn."""

    def rows(draw: Draw, n: int) -> Iterable[Row]:
        for i in range(n):
            yield {
                "id": str(i),
                "question_id": str(i),
                "question": f"Is there a {('dog', 'chair', 'cup')[i % 3]} in the image?",
                "answer": ("yes", "no")[i // 3 % 2],
                "image_source": f"COCO_val2014_{i:012d}",
                "image": draw.picture(),
                "category": category or ("adversarial", "popular", "random")[i % 3],
            }

    return rows


def gqa_instructions(draw: Draw, n: int) -> Iterable[Row]:
    """Two questions for each image."""
    for i in range(n):
        yield {
            "id": str(201000 + i),
            "imageId": f"n{i // 2}",
            "question": ("What colour is the cup?", "Is the cup on the table?")[i % 2],
            "answer": ("red", "yes")[i % 2],
            "fullAnswer": ("The cup is red.", "Yes, it is on the table.")[i % 2],
        }


def gqa_images(draw: Draw, n: int) -> Iterable[Row]:
    """In reverse: an image is found by its id only."""
    for i in reversed(range((n + 1) // 2)):
        yield {"id": f"n{i}", "image": draw.picture()}


def seedbench(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        video = i % 3 == 2
        yield {
            "answer": "ABCD"[draw.below(4)],
            **{f"choice_{letter}": COLOURS[k] for k, letter in enumerate("abcd")},
            "data_id": str(i),
            "data_type": "video" if video else "image",
            "question": f"Which colour has object {i}?",
            "question_id": str(i),
            "question_type_id": 1 + i % 9,
            "image": [draw.picture() for _ in range(8 if video else 1)],
            "segment": [0, 1],
        }


def vizwiz(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        yield {
            "question_id": f"VizWiz_val_{i:08d}.jpg",
            "image": draw.picture(),
            "question": "what is this?",
            "answers": [["unanswerable"] * 10, ["soup can"] * 5 + ["unsuitable"] * 5][i % 2],
            "category": ("unanswerable", "other")[i % 2],
        }


def vqav2(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        answer, kind = (("yes", "yes/no"), ("2", "number"), ("teddy bear", "other"))[i % 3]
        given = [answer] * 6 + ["something"] * 4
        yield {
            "question_type": "is",
            "multiple_choice_answer": answer,
            "answers": [
                {"answer": text, "answer_confidence": "yes", "answer_id": k + 1}
                for k, text in enumerate(given)
            ],
            "image_id": 1000 + i,
            "answer_type": kind,
            "question_id": 1000000 + i,
            "question": f"What is in region {i}?",
            "image": draw.picture(),
        }


def mmvp(draw: Draw, n: int) -> Iterable[Row]:
    """Pairs of images with the same question and opposite answers."""
    for i in range(2 * max(n // 2, 1)):
        yield {
            "Index": i + 1,
            "Question": "Are the butterfly's wings closer to being open or closed?",
            "Options": "(a) Open (b) Closed",
            "Correct Answer": ("(a)", "(b)")[i % 2],
            "image": draw.picture(),
        }


def llava_w(draw: Draw, n: int) -> Iterable[Row]:
    for i in range(n):
        yield {
            "question_id": str(i),
            "question": f"What is the name of the place in picture {i // 3}?",
            "image_id": f"{i // 3:03d}.jpg",
            "image": draw.picture(),
            "category": ("conv", "detail", "complex")[i % 3],
            "caption": "A red square in front of a green wall.",
            "gpt_answer": "The place is known for its red square. It is seen from the south.",
        }
