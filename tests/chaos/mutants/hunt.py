"""Hunt mutants from fresh seeds: print each with the first seed that kills it.

python -m tests.chaos.mutants.hunt [START [SEEDS [WORD]]]
"""

import sys
import tempfile
from pathlib import Path

from tests.chaos.mutants.mutants import MUTANTS, broken_by, patched
from tests.chaos.mutants.requestmutants import REQUEST_MUTANTS


def main() -> int:
    """Return how many mutants live."""
    start, seeds = (int(word) for word in (*sys.argv[1:3], *("1", "200")[len(sys.argv[1:3]) :]))
    word = sys.argv[3] if len(sys.argv) > 3 else ""
    alive = 0
    for mutant in (*MUTANTS, *REQUEST_MUTANTS):
        if word not in mutant.name:
            continue
        with tempfile.TemporaryDirectory() as place:
            folder = patched(mutant, Path(place))
            found = broken_by(folder, mutant.world, *range(start, start + seeds))
        alive += found is None
        sys.stdout.write(f"{mutant.name}: {found or 'lives'}\n")
        sys.stdout.flush()
    return alive


if __name__ == "__main__":
    sys.exit(main())
