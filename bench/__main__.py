"""Run measurements: `python -m bench [NAME …] [--json]`; all of them without a name.

Never here: measuring.
"""

import argparse

from bench import events, footprint
from bench.report import document, show

BENCHES = {"events": events.measure, "footprint": footprint.measure}


def main() -> None:
    """Measure what is named and print it."""
    parser = argparse.ArgumentParser(prog="bench", description="Measure Genesis.")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME")
    parser.add_argument("--json", action="store_true", help="one JSON document a measurement")
    given = parser.parse_args()
    for name in given.names or BENCHES:
        show(document(name, BENCHES[name]()), as_json=given.json)


if __name__ == "__main__":
    main()
