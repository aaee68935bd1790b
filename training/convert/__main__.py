"""Convert a checkpoint in LLaVA's or LLaVA-NeXT's own layout to a Hugging Face checkpoint, or assemble one.

python -m training.convert mengyaolyu/mmssr-7b-scorer --image-mode base --out checkpoints/scorer
python -m training.convert DIR --image-aspect anyres --grids "(1x1),...,(6x6)" --out DIR2
python -m training.convert liuhaotian/llava-v1.5-7b --out checkpoints/llava15
python -m training.convert assemble --language DIR --vision DIR --projector mm_projector.bin --out DIR2
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from training.convert import ConversionError, assemble, convert_llava_next
from training.convert.source import directory, read_object, read_tokenizer
from training.hub import HubError

MODES = ("base", "pad", "crop", "anyres")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Every error is one line on stderr and exit status 1 (2 for wrong usage)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser, run = (_assembler(), _assemble) if arguments[:1] == ["assemble"] else (_converter(), _convert)
    args = parser.parse_args(arguments[1:] if run is _assemble else arguments)
    try:
        if "\0" in str(args.out):
            raise ConversionError(f"--out contains a NUL byte: {str(args.out)!r}")
        if args.out.exists():
            raise ConversionError(f"{args.out} exists: choose a directory that does not")
        run(args)
        record = json.loads((args.out / "conversion.json").read_text())
    except (ConversionError, HubError, OSError) as error:
        raise SystemExit(f"error: {' '.join(str(error).split())}") from error
    initialised = f", {', '.join(record['initialised'])} initialised" if record["initialised"] else ""
    print(
        f"{args.out}: {record['model']}, image mode {record['image_mode']}; "
        f"{record['rows_added']} embedding rows added, "
        f"{len(record['unused'])} weights that are never used left out{initialised}"
    )


def _converter() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.convert",
        description="Convert a checkpoint in LLaVA's or LLaVA-NeXT's layout to a Hugging Face checkpoint. "
        "`python -m training.convert assemble --help`: make one from its parts.",
    )
    parser.add_argument("source", help="checkpoint directory or Hub name")
    _add_shared(parser)
    parser.add_argument(
        "--vision-tower", help="directory or Hub name of the tower, if not the one that the checkpoint names"
    )
    parser.add_argument(
        "--vision-config", type=Path, help="JSON file with the configuration of the pretrained tower"
    )
    return parser


def _assembler() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.convert assemble",
        description="Assemble a LLaVA-1.5, LLaVA-NeXT or LLaVA-OneVision from its parts.",
    )
    parser.add_argument("--language", required=True, help="directory or Hub name of the language model")
    parser.add_argument("--vision", required=True, help="directory or Hub name of the CLIP or SigLIP")
    parser.add_argument("--projector", type=Path, required=True, help="mm_projector.bin, or safetensors")
    _add_shared(parser)
    parser.add_argument("--seed", type=int, default=0, help="of what no part brings (image_newline)")
    return parser


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="directory to create")
    parser.add_argument("--tokenizer", help="directory or Hub name of another tokenizer")
    parser.add_argument("--image-aspect", help="pad, crop, square, anyres or anyres_max_N")
    parser.add_argument(
        "--grids",
        help="for anyres, width first: tiles as '(1x1),...,(6x6)' or '(1x2),(2x1)', pixels as '[[336, 672]]'",
    )
    parser.add_argument("--image-mode", choices=MODES, help="how images are read, if not as the aspect says")


def _convert(args: argparse.Namespace) -> None:
    convert_llava_next(
        args.source,
        args.out,
        vision_config=read_object(args.vision_config) if args.vision_config else None,
        vision_tower=args.vision_tower,
        tokenizer=read_tokenizer(directory(args.tokenizer)) if args.tokenizer else None,
        image_aspect=args.image_aspect,
        grids=args.grids,
        image_mode=args.image_mode,
    )


def _assemble(args: argparse.Namespace) -> None:
    assemble(
        args.language,
        args.vision,
        args.projector,
        args.out,
        tokenizer=read_tokenizer(directory(args.tokenizer)) if args.tokenizer else None,
        image_aspect=args.image_aspect,
        grids=args.grids,
        image_mode=args.image_mode,
        seed=args.seed,
    )


if __name__ == "__main__":
    main()
