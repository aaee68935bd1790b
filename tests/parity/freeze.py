"""Write the frozen tables of methods again, from the oracles: `python tests/parity/freeze.py NAME ...`."""

import importlib
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "support"), str(TESTS / "parity")]


def main() -> None:
    """Freezes the methods that are named, all if none is."""
    from parity import freeze

    known = sorted(path.stem.removeprefix("test_parity_") for path in Path(__file__).parent.glob("test_*.py"))
    for name in sys.argv[1:] or known:
        path = freeze(importlib.import_module(f"test_parity_{name}").METHOD)
        print(f"{path.relative_to(TESTS.parent)}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
