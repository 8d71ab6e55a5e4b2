"""Normalize captures on the command line: JSON lines, or one summary document.

Run as `python -m nodes.market_data.sources.normalize_cli`. Exit 0, 2 usage, 4 capture.

Never here: parsing of messages.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mesh.errors import ConfigError
from nodes.market_data.frame import Frame
from nodes.market_data.normalize import Normalizer, documents
from nodes.market_data.reference import Registry
from nodes.market_data.sources.replay import read_captures
from nodes.market_data.summary import summarize

VENUES = ("binance-spot", "binance-usdm", "kraken", "coinbase")
USAGE, CAPTURE = 2, 4


def main(arguments: list[str] | None = None) -> int:
    """Run; return the exit code."""
    options = _parse(arguments)
    if options.venue in ("kraken", "coinbase"):
        sys.stderr.write(f"normalize: captures of {options.venue} are not yet supported\n")
        return USAGE
    futures = options.venue == "binance-usdm"
    normalizer = Normalizer(Registry("BINANCE", perpetual=futures), futures=futures)
    try:
        frames = read_captures(options.files)
        if options.summary:
            _write_summary(frames, normalizer, options.files)
        else:
            _write_lines(documents(frames, normalizer, books=options.books))
        sys.stdout.flush()
    except ConfigError as error:
        sys.stderr.write(f"normalize: {error}\n")
        return CAPTURE
    except BrokenPipeError:  # the reader has seen enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("normalize", description="captures to normalised values")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--venue", required=True, choices=VENUES)
    parser.add_argument("--summary", action="store_true", help="one document instead of lines")
    parser.add_argument("--books", action="store_true", help="the top 20 after each applied diff")
    return parser.parse_args(arguments)


def _write_summary(frames: Iterator[Frame], normalizer: Normalizer, files: list[Path]) -> None:
    document = {"files": sorted(path.name for path in files), **summarize(frames, normalizer)}
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")


def _write_lines(values: Iterator[dict[str, Any]]) -> None:
    counts: Counter[str] = Counter()
    encode = msgspec.json.Encoder().encode
    for value in values:
        counts[value["type"]] += 1
        sys.stdout.buffer.write(encode(value) + b"\n")
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    sys.stderr.write(f"{counts.total()} values: {told or 'none'}\n")


if __name__ == "__main__":
    raise SystemExit(main())
