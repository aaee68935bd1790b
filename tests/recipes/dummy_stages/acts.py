"""Dummy stage that does what its config asks: report, wait, fail, exit."""

import os
import threading
import time
from pathlib import Path


class Unpicklable(Exception):
    """An error that cannot be pickled."""

    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


def run(config, inputs, out, progress):
    """Returns the process id, OMP_NUM_THREADS and CUDA_VISIBLE_DEVICES."""
    (out / "started").write_text(config["name"])
    if "print" in config:
        print(config["print"], flush=True)
    if "total" in config:
        progress.total(config["total"])
        for k in config["advance"]:
            progress.advance(k)
        progress.say(config["say"])
    if "meet" in config:
        _meet(Path(config["meet"][0]), config["meet"][1], config["name"])
    time.sleep(config.get("seconds", 0))
    if "write" in config:
        Path(config["write"]).write_text("x")
    if "kill" in config:
        os.kill(os.getpid(), config["kill"])
    if "exit" in config:
        os._exit(config["exit"])
    if "unpicklable" in config:
        raise Unpicklable
    if "fail" in config:
        raise ValueError(config["fail"])
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS"), "gpu": gpu}


def _meet(folder, number, name):
    """Wait until `number` stages have called this with the same folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("")
    end = time.monotonic() + 60
    while len(list(folder.iterdir())) < number:
        if time.monotonic() > end:
            raise TimeoutError(f"{name}: the other stages did not start")
        time.sleep(0.01)
