"""Verbs on recorded data: normalize.

Never here: parsing of captures; the market data node owns it and runs as its own process.
"""

import os
import subprocess
import sys

import click

from mesh.cli import show
from mesh.runtime.settings import ROOT as CHECKOUT
from mesh.runtime.settings import environment

VENUES = ("binance-spot", "binance-usdm", "kraken", "coinbase")
NORMALIZE = "nodes.market_data.sources.normalize_cli"


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE…")
@click.option("--venue", type=click.Choice(VENUES), required=True)
@click.option("--summary", is_flag=True, help="One JSON document instead of the lines.")
@click.option("--books", is_flag=True, help="Also the book after every applied change.")
@show.as_json
def normalize(files: tuple[str, ...], venue: str, summary: bool, books: bool, json_: bool) -> None:
    """Turn captures into normalised JSON lines, or sum them up."""
    del json_  # it is JSON in any case
    flags = [*(["--summary"] if summary else []), *(["--books"] if books else [])]
    words = [*flags, "--venue", venue, "--", *files]
    raise click.exceptions.Exit(run_module(NORMALIZE, words))


def run_module(module: str, words: list[str]) -> int:
    """Run *module* with our own input and output; return its exit code."""
    # -P and PYTHONPATH: the nodes of this checkout, whatever lies in the working directory.
    inherited = environment()
    known = filter(None, (str(CHECKOUT), inherited.get("PYTHONPATH")))
    child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
        [sys.executable, "-P", "-m", module, *words],
        env={**inherited, "PYTHONPATH": os.pathsep.join(known)},
    )
    while True:
        try:
            status = child.wait()
        except KeyboardInterrupt:
            continue  # the terminal has sent it to the child too, which ends
        return status if status >= 0 else 128 - status
