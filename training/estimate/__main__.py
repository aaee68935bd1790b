"""Print what a training costs, for published model sizes or a checkpoint, under each ZeRO stage.

python -m training.estimate --preset llava15_full --gpu h100 --gpus 8
python -m training.estimate --base checkpoints/own --samples 200000 precision=bf16 batch_size=128
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curation.command import CommandError, CommandParser, fail, whole_number
from training.estimate.gpus import GPUS

MODELS = "llava15_7b,llava15_13b,onevision_05b,onevision_7b,onevision_72b,qwen25vl_3b,qwen25vl_7b"
STAGES = "zero0,zero1,zero2,zero3,zero2_offload,zero3_offload"


def parser() -> argparse.ArgumentParser:
    """The parser of this command."""
    command = CommandParser(prog="python -m training.estimate", description=__doc__.splitlines()[0])
    add, count = command.add_argument, whole_number(1)
    add("--preset", metavar="NAME", help="a preset of training/presets; default: FitSpec's own values")
    add("settings", metavar="key=value", nargs="*", help="a setting of FitSpec, over the preset's")
    add("--models", metavar="A,B", default=MODELS, help=f"published models; default: {MODELS}")
    add("--base", metavar="DIR", help="a checkpoint, instead of published models")
    add("--gpu", choices=sorted(GPUS), default="h100")
    add("--gpus", metavar="N", type=count, default=8, help="on all nodes; default: 8")
    add("--mfu", type=float, help="share of the GPU's peak that is reached; default: 0.4, assumed")
    add("--stages", metavar="A,B", default=STAGES, help=f"DeepSpeed settings; default: {STAGES}")
    add("--samples", metavar="N", type=count, default=665_000, help="default: 665000, LLaVA-1.5's mixture")
    add("--text", metavar="TOKENS", type=count, default=300, help="text tokens of a sample; default: 300")
    add("--images", metavar="N", type=whole_number(0), default=1, help="images of a sample; default: 1")
    add("--tokens", metavar="DIR", help="a token store: its lengths, instead of --samples and --text")
    add("--pool", metavar="DIR", help="a pool: its token counts, instead of --samples and --text")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for a command line that cannot be carried out."""
    options = parser().parse_intermixed_args(arguments)
    try:
        return _print(options)
    except (ValueError, FileNotFoundError) as error:
        return fail(error, 2)


def _print(options: argparse.Namespace) -> int:
    from rich.console import Console

    from training.estimate.cost import MFU
    from training.estimate.table import cost_table, memory_table

    mfu = MFU if options.mfu is None else options.mfu
    if not 0 < mfu <= 1:
        raise CommandError(f"--mfu {options.mfu} must be above 0 and at most 1")
    console = Console()
    rows = list(_costs(options, mfu))
    what = options.preset or "FitSpec"
    first = {name: cost for name, cost in reversed(rows)}
    hours = f"{options.gpus} x {options.gpu}, {mfu:.0%} MFU ({'assumed' if options.mfu is None else 'given'})"
    console.print(cost_table(dict(reversed(first.items())), f"{what}: {hours}"))
    console.print(
        memory_table(rows, f"{what}: GiB of one of {options.gpus} processes, at the peak of a step")
    )
    return 0


def _costs(options: argparse.Namespace, mfu: float) -> Iterator[tuple[str, Any]]:
    """(model, cost) for each model and stage."""
    from training.estimate.cost import estimate
    from training.estimate.published import image_tokens

    spec = spec_of(options.preset, options.settings)
    for shape in _shapes(options):
        lengths = _lengths(options, image_tokens(shape))
        for stage in options.stages.split(","):
            own = spec.model_copy(update={"deepspeed": stage})
            yield shape.name, estimate(shape, own, lengths, gpu=options.gpu, world=options.gpus, mfu=mfu)


def spec_of(preset: str | None, settings: Sequence[str]) -> Any:
    """The FitSpec of a preset (default: FitSpec's own values) with settings over it. Raises ValueError."""
    from curation.command import yaml_params
    from training.presets import fit_spec
    from training.spec import FitSpec

    return fit_spec(preset, **yaml_params(settings)) if preset else FitSpec(**yaml_params(settings))


def _shapes(options: argparse.Namespace) -> Iterator[Any]:
    from training.estimate.published import shape_of
    from training.estimate.shapes import Shape

    if options.base:
        yield Shape.of_checkpoint(Path(options.base))
    else:
        yield from map(shape_of, options.models.split(","))


def _lengths(options: argparse.Namespace, image_tokens: int) -> Any:
    """Lengths counted in a token store or a pool, else as the options assume them."""
    from training.estimate import lengths

    if options.tokens:
        return lengths.of_store(Path(options.tokens))
    if options.pool:
        return lengths.of_pool(Path(options.pool), image_tokens)
    return lengths.Lengths.assumed(options.samples, options.text, options.images, image_tokens)


if __name__ == "__main__":
    sys.exit(main())
