"""Verbs that measure: bench.

Never here: measuring; the bench package of the checkout does, as its own process.
"""

import click

from mesh.cli import show
from mesh.cli.data import run_module
from mesh.cli.failures import NOT_FOUND, Failure
from mesh.runtime.settings import ROOT as CHECKOUT

BENCH = CHECKOUT / "bench" / "__main__.py"


@click.command()
@click.argument("name")
@click.option("--quick", is_flag=True, help="Few rounds: to see that it works, not how fast.")
@show.as_json
def bench(name: str, quick: bool, json_: bool) -> None:
    """Measure NAME (events, requests, footprint) and judge it by its limits."""
    if not BENCH.is_file():
        raise Failure(NOT_FOUND, "bench/ comes with a checkout of Genesis, not with the package")
    flags = [*(["--quick"] if quick else []), *(["--json"] if json_ else [])]
    raise click.exceptions.Exit(run_module("bench", [*flags, "--", name]))
