"""Make a prompt set from the released mmSSR code, whose scorer and styler are then asked as there.

    python -m curation.signals.prompts from-mmssr CLONE --out mmssr.yaml

CLONE is a folder with the user's own clone; its files are parsed, never run. Recipes name the file as
`scorer: {prompts: mmssr.yaml}`, producers as `prompts=mmssr.yaml`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from curation import atomic
from curation.command import CommandParser, fail, path
from curation.signals.raters.queries import PromptError, Queries, load_queries
from curation.signals.raters.released import CONFIG, PROGRAM, protocol_of


def from_mmssr(clone: Path, out: Path) -> Queries:
    """Write the prompt set of a clone to `out`. Raises PromptError, FileExistsError."""
    import yaml

    if out.suffix != ".yaml":
        raise PromptError(f"the ending of {out} must be .yaml")
    if out.exists():
        raise FileExistsError(f"{out} exists; choose another --out, or delete it")
    content = protocol_of(clone)
    head = (
        f"# The protocol of the released mmSSR raters (arXiv 2503.13383), read from {CONFIG} and {PROGRAM}.\n"
    )
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    with atomic.replacing(out) as temporary:
        temporary.write_text(head + text, encoding="utf-8")
    return load_queries(out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 2 (and one line on stderr) for a clone that cannot be read."""
    parser = CommandParser(
        prog="python -m curation.signals.prompts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["from-mmssr"])
    parser.add_argument("clone", type=path, help="folder of a clone of the released code")
    parser.add_argument("--out", type=path, required=True, metavar="FILE", help="the YAML file to write")
    options = parser.parse_args(arguments)
    try:
        queries = from_mmssr(options.clone, options.out)
    except (PromptError, OSError) as error:
        return fail(error, 2)
    print(f"capability: {queries.capability[0]}\nstyle: {queries.style}\n-> {options.out} ({queries.hash})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
