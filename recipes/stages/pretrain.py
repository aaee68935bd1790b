"""Train the mini world's base model from scratch on dense captions, in phases of growing difficulty."""

import json
import shutil
from pathlib import Path
from typing import Any

from recipes.stages.counting import counter

CODE = ("curation/mini", "curation/pool/sample.py", "training", "evaluation/gates.py", "recipes/stages/pretrain.py")


class _Encoded:
    """The caption stream as the trainer wants it: rendered when its turn comes."""

    def __init__(self, stream: Any, renderer: Any) -> None:
        self.stream, self.renderer = stream, renderer

    def __len__(self) -> int:
        return len(self.stream)

    def __getitem__(self, index: int) -> Any:
        return self.renderer.encode(self.stream[index])


def run(config: dict[str, Any], inputs: dict[str, Path], out: Path, progress: Any) -> dict[str, Any]:
    """Writes `checkpoint/` (with log and gates.json); returns samples seen, seconds of each phase and the gates."""
    from curation.mini.captions import CaptionStream
    from curation.mini.tokenizer import build_tokenizer
    from evaluation.gates import measure_gates
    from training.fit import fit
    from training.models import build_tiny, image_mode, load
    from training.render import Renderer
    from training.spec import FitSpec

    model_dir = build_tiny(out / "initial", build_tokenizer(), **config["model"])
    total = sum(phase["samples"] for phase in config["phases"])
    log, seconds, done, count = [], {}, 0, counter(progress)
    for number, phase in enumerate(config["phases"]):
        model, processor = load(model_dir)
        stream = CaptionStream(phase["samples"], seed=number, **phase["data"])
        examples = _Encoded(stream, Renderer(processor, image_mode(model)))
        spec = FitSpec(epochs=1, **phase["train"])
        progress.say(f"phase {phase['name']}: {len(stream)} samples, {len(stream) // spec.batch_size} steps, lr {spec.lr}")
        target, before = out / phase["name"], done
        result = fit(spec, model_dir, examples, target, lambda step, *_: count(before + step * spec.batch_size, total))
        done += len(stream)
        seconds[phase["name"]] = round(result["seconds"], 1)
        log += [f"{phase['name']} step {i + 1} loss {loss:.4f}" for i, loss in enumerate(result["losses"]) if (i + 1) % 50 == 0]
        shutil.rmtree(model_dir)
        model_dir = target
    model_dir.rename(out / "checkpoint")
    gates = measure_gates(out / "checkpoint", **config["gates"])
    for gate, found in gates.items():
        progress.say(f"gate {gate}: {found['value']:.3f} (wanted {found['wanted']}, n {found['n']})")
    (out / "checkpoint" / "gates.json").write_text(json.dumps(gates, indent=1))
    (out / "checkpoint" / "training.log").write_text("\n".join(log) + "\n")
    return {"samples": done, "seconds": seconds, "gates": {g: round(v["value"], 4) for g, v in gates.items()}}
