"""Train the mini world's base model from scratch on dense captions, in phases of increasing difficulty.

A phase continues from the one before it, or from `start` (another phase, or `initial` for random weights);
`vision` names a phase whose vision tower and projector replace those of the start.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

RESUMES = True


class _Encoded(Sequence[Any]):
    """The caption stream as lazy training data: each caption is rendered when its step comes."""

    def __init__(self, stream: Any, renderer: Any) -> None:
        self.stream, self.renderer = stream, renderer

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: Any) -> Any:
        return self.renderer.encode(self.stream[index])

    def lengths(self) -> Any:
        """Length of every caption, for batches of similar length."""
        return self.stream.lengths()


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes `checkpoint/` with log and gates.json; returns samples seen, seconds of each phase, and gates.

    Each phase leaves a folder with its checkpoint and log, so an interrupted run resumes with the first
    unfinished one.
    """
    from curation.mini.tokenizer import build_tokenizer
    from evaluation.gates import measure_gates
    from training.models import COMPLETE, build_tiny

    total = sum(phase["samples"] for phase in config["phases"])
    folders = {"initial": build_tiny(out / "initial", build_tokenizer(), **config["model"])}
    last, done, count = "initial", 0, counter(progress)
    for number, phase in enumerate(config["phases"]):
        name, target = phase["name"], out / phase["name"]
        if not (target / COMPLETE).exists():
            start = folders[phase.get("start", last)]
            if "vision" in phase:
                start = _with_vision_of(folders[phase["vision"]], start, out / f"{name}_start")
            on_step = partial(_count_steps, count, done, phase["train"]["batch_size"], total)
            _train_phase(number, phase, start, target, progress, on_step)
        folders[name], last, done = target, name, done + phase["samples"]
    checkpoint = out / "checkpoint"
    shutil.rmtree(checkpoint, ignore_errors=True)
    shutil.copytree(folders[last], checkpoint, ignore=shutil.ignore_patterns("fit.*"))
    gates = measure_gates(checkpoint, **config["gates"])
    for name, gate in gates.items():
        progress.say(f"gate {name}: {gate['value']:.3f} (required {gate['wanted']}, n {gate['n']})")
    (checkpoint / "gates.json").write_text(json.dumps(gates, indent=1) + "\n")
    results = _phase_results(config["phases"], out)
    (checkpoint / "training.log").write_text("\n".join(_log_lines(results)) + "\n")
    return {
        "samples": done,
        "seconds": {name: round(result["seconds"], 1) for name, result in results.items()},
        "gates": {g: round(v["value"], 4) for g, v in gates.items()},
    }


def _phase_results(phases: list[dict[str, Any]], out: Path) -> dict[str, dict[str, Any]]:
    """Losses and seconds of each phase, from the files that its training wrote."""
    return {
        phase["name"]: json.loads((out / phase["name"] / "fit.json").read_text())["result"]
        | json.loads((out / phase["name"] / "fit.times.log").read_text())
        for phase in phases
    }


def _log_lines(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    """The loss of every fiftieth step."""
    for name, result in results.items():
        for step, loss in enumerate(result["losses"], 1):
            if step % 50 == 0:
                yield f"{name} step {step} loss {loss:.4f}"


def _with_vision_of(seeing: Path, start: Path, out: Path) -> Path:
    """A checkpoint with the vision tower and projector of `seeing` and the decoder of `start`."""
    from training.families import of_config
    from training.models import load, save_checkpoint

    model, processor = load(start)
    part_of = of_config(model.config).part_of
    weights = load(seeing)[0].state_dict()
    model.load_state_dict({k: v for k, v in weights.items() if part_of(k) != "language"}, strict=False)
    return save_checkpoint(model, processor, out)


def _count_steps(count: Any, before: int, batch_size: int, total: int, step: int, *_: Any) -> None:
    count(before + step * batch_size, total)


def _train_phase(
    number: int, phase: dict[str, Any], start: Path, target: Path, progress: Any, on_step: Any
) -> None:
    from curation.mini.captions import CaptionStream
    from training.aspects import set_aspect
    from training.launch import launch
    from training.models import image_mode, load
    from training.render import Renderer
    from training.spec import FitSpec

    model, processor = load(start)
    stream = CaptionStream(phase["samples"], seed=number, **phase["data"])
    spec = FitSpec(epochs=1, **phase["train"])
    progress.say(
        f"phase {phase['name']}: {len(stream)} samples, {len(stream) // spec.batch_size} steps, lr {spec.lr}"
    )
    mode = set_aspect(processor, image_mode(model), spec.image_aspect, spec.image_grids)
    renderer = Renderer(processor, mode, rules=spec.render_rules())
    launch(spec, start, _Encoded(stream, renderer), target, on_step)
