"""The function of all dummy stages: log the execution, read the inputs, write four files."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from recipes.store import OWN_FILES


def digest_inputs(inputs):
    """Content hashes of every input, without the store's own files, which contain times."""
    hashes = {}
    for name, value in sorted(inputs.items()):
        for path in value if isinstance(value, list) else [value]:
            files = (
                sorted(p for p in Path(path).rglob("*") if p.is_file())
                if Path(path).is_dir()
                else [Path(path)]
            )
            files = [f for f in files if f.name not in OWN_FILES]
            hashes.setdefault(name, []).append([hashlib.sha256(f.read_bytes()).hexdigest() for f in files])
    return hashes


def run(config, inputs, out, progress):
    """Writes content that depends on config and inputs only.

    Environment: DUMMY_LOG is a file that gets one line for every execution, DUMMY_SECONDS the duration
    (with DUMMY_SLOW, of stages of that kind only), DUMMY_FAIL a kind that fails, DUMMY_PIDS a file for the
    ids of this process and of a child process, DUMMY_STEPS the steps of a training, DUMMY_STEP_SECONDS how
    long each takes, DUMMY_COMPARISON a folder whose files `compare` gives out.
    """
    if log := os.environ.get("DUMMY_LOG"):
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(f"{out.parent.name}/{out.name}\n")
    if pids := os.environ.get("DUMMY_PIDS"):
        child = subprocess.Popen(["sleep", "60"])
        with open(pids, "a", encoding="utf-8") as stream:
            stream.write(f"{os.getpid()} {child.pid} ")
    if os.environ.get("DUMMY_SLOW") in (None, out.parent.name):
        time.sleep(float(os.environ.get("DUMMY_SECONDS", 0)))
    if os.environ.get("DUMMY_FAIL") == out.parent.name:
        raise RuntimeError("told to fail")
    if out.parent.name == "train" and (steps := int(os.environ.get("DUMMY_STEPS", 0))):
        _train(out, steps, float(os.environ.get("DUMMY_STEP_SECONDS", 0)))
    if out.parent.name == "compare" and (given := os.environ.get("DUMMY_COMPARISON")):
        shutil.copytree(given, out, dirs_exist_ok=True)
    value = json.dumps({"config": config, "inputs": digest_inputs(inputs)}, sort_keys=True)
    progress.total(3)
    for part in range(3):
        (out / f"part-{part}.txt").write_text(value * (1 + part) * 50, encoding="utf-8")
        progress.advance()
    (out / "nested").mkdir()
    (out / "nested" / "value.json").write_text(value, encoding="utf-8")
    progress.say(f"{len(inputs)} inputs")
    return {"n": len(inputs)}


def _train(out, steps, seconds):
    """Write the step log of a training whose loss falls; some of its values must not be passed on."""
    for step in range(1, steps + 1):
        line = {"loss": 3 / step, "grad_norm": 1.5, "learning_rate": 1e-3, "step": step, "mfu": None}
        line |= {"tokens_per_second": 1000.0, "peak_memory_gb": 2.5, "late": [[7, "LATE TEXT", "broken"]]}
        with (out / "fit.log.jsonl").open("a" if step > 1 else "w", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        time.sleep(seconds)
    times = {"meters": {"tokens_per_second": 990.0, "mfu": None}}
    (out / "fit.times.log").write_text(json.dumps(times), encoding="utf-8")
