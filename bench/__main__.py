"""Run measurements: `python -m bench [NAME …] [--json] [--quick]`; all of them without a name.

Never here: measuring.
"""

import argparse
import importlib
import sys
import warnings

from bench.limits import judged
from bench.report import document, show

BENCHES = ("events", "requests", "footprint")  # modules with a function measure
USAGE, INTERRUPTED = 2, 130


def main() -> int:
    """Measure what is named and print it; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure Genesis.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--json", action="store_true", help="one JSON document a measurement")
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it works")
    given = parser.parse_args()
    for name in given.names:
        if name not in BENCHES:
            sys.stderr.write(f"genesis: no bench {name!r}; there are {', '.join(BENCHES)}\n")
            return USAGE
    try:
        for name in given.names or BENCHES:
            rows = judged(importlib.import_module(f"bench.{name}").measure(quick=given.quick))
            show(document(name, rows), as_json=given.json)
    except KeyboardInterrupt:
        warnings.simplefilter("ignore")  # of a coroutine that was made and not begun
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
