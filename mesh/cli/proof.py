"""Verbs that prove: sim.

Never here: what is simulated; the world is found by its dotted name.
"""

import importlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import click

from mesh.cli import show
from mesh.cli.failures import ERROR, USAGE, Failure
from mesh.clock import monotonic_s
from mesh.errors import Invalid
from mesh.runtime.settings import ROOT as CHECKOUT
from mesh.sim.faults import Saved, load, save
from mesh.sim.shrink import Schedule, shrink
from mesh.sim.world import Build, Report, World

WORLD: Final = "mesh.sim.planes:build"
FILE: Final = click.Path(exists=True, dir_okay=False)
REGRESSIONS: Final = CHECKOUT / "tests" / "regressions"  # replayed first, by the tests


@click.command()
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, metavar="N")
@click.option("--start", type=click.IntRange(0), default=1, show_default=True, metavar="S")
@click.option("--seed", type=click.IntRange(0), metavar="N", help="Run this one alone.")
@click.option("--faults", type=FILE, metavar="FILE", help="Replay what was saved.")
@click.option("--story", is_flag=True, help="Tell of one seed what goes wrong when.")
@click.option("--world", default=WORLD, show_default=True, metavar="MODULE:BUILD")
@show.as_json
def sim(
    seeds: int,
    start: int,
    seed: int | None,
    faults: str | None,
    world: str,
    *,
    story: bool,
    json_: bool,
) -> None:
    """Run simulated worlds full of faults, and judge that no promise is broken."""
    began = monotonic_s()
    build, tell = found(world), click.echo if story and not json_ else None
    if faults is not None:
        reports = [replay(build, Path(faults), seed, tell)]
    elif seed is not None:
        reports = [World(seed, build, story=tell).run()]
    else:
        reports = list(run_all(world, range(start, start + seeds)))
    answer = summary(reports, faults, world, monotonic_s() - began)
    if json_:
        show.document(answer)
    else:
        click.echo(told(answer, reports))
    for report in reports:
        if report.violations and faults is None:
            click.echo(shrunk(report, build) + of(world), err=True)
            break  # one is enough to begin with
    raise click.exceptions.Exit(int(bool(answer["violations"])))


def found(name: str) -> Build:
    """Return what `module:function` names. Raises Failure."""
    module, _, function = name.partition(":")
    try:
        build: Build = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError):
        raise Failure(USAGE, f"no world {name!r}; it is named MODULE:BUILD") from None
    return build


def replay(
    build: Build, path: Path, seed: int | None, story: Callable[[str], object] | None
) -> Report:
    """Run the saved schedule of *path*, with another seed if one is given."""
    try:
        saved = load(path.read_bytes())
    except Invalid as error:
        raise Failure(USAGE, f"{path}: {error}") from None
    number = saved.seed if seed is None else seed
    return World(number, build, saved.schedule, saved.config, story=story).run()


def run_all(world: str, seeds: range) -> Iterator[Report]:
    """Yield the report of every seed in order, from as many processes as there are cores."""
    workers = min(os.cpu_count() or 1, len(seeds))
    with ExitStack() as owned:
        with _deaf():
            pipes = [_worker(owned, world, seeds[n::workers]) for n in range(workers)]
        for number, seed in enumerate(seeds):
            try:
                yield pipes[number % workers].recv()
            except EOFError:
                raise Failure(ERROR, f"the process that ran seed {seed} has died") from None


@contextmanager
def _deaf() -> Iterator[None]:
    """Let processes that are started meanwhile never hear Ctrl-C; the parent ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _worker(owned: ExitStack, world: str, seeds: range) -> Connection:
    """Start a process that sends the report of each seed in order; *owned* ends it."""
    # spawn: who inherits nothing gives the same answer on every machine.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(world, seeds, theirs), daemon=True)
    owned.callback(ours.close)
    process.start()
    owned.callback(process.join)
    owned.callback(process.kill)
    theirs.close()
    return ours


def _run(world: str, seeds: range, reports: Connection) -> None:
    build = found(world)
    for seed in seeds:
        reports.send(World(seed, build).run())


def summary(
    reports: list[Report], faults: str | None, world: str, wall_s: float
) -> dict[str, Any]:
    """Return the answer of --json."""
    file = "" if faults is None else f" --faults {faults}"
    return {
        "seeds": len(reports),
        "events": sum(report.events for report in reports),
        "faults": sum(report.faults for report in reports),
        "violations": [
            {
                "seed": report.seed,
                "invariant": broken.invariant,
                "detail": broken.detail,
                "at_s": round(broken.at_s, 3),
                "repro": f"genesis sim --seed {report.seed}{file}{of(world)}",
            }
            for report in reports
            for broken in report.violations
        ],
        "wall_s": round(wall_s, 2),
    }


def of(world: str) -> str:
    """Return the option that names *world*, "" for the default one."""
    return "" if world == WORLD else f" --world {world}"


def told(answer: dict[str, Any], reports: list[Report]) -> str:
    """Return the answer for people."""
    lines = [
        "{seeds} seeds, {events} events, {faults} faults took effect".format(**answer),
        f"{len(answer['violations'])} promises broken, {answer['wall_s']} s",
    ]
    if len(reports) == 1:
        lines.append(f"trace {reports[0].trace_sha256}")
    for broken in answer["violations"]:
        lines.append(f"{broken['invariant']} at {broken['at_s']} s: {broken['detail']}")
        lines.append(f"  {broken['repro']}")
    return "\n".join(lines)


def shrunk(report: Report, build: Build) -> str:
    """Write a small schedule that breaks the same promise; return how to replay it."""
    expected = report.violations[0].invariant

    def breaks(schedule: Schedule) -> bool:
        again = World(report.seed, build, schedule).run()
        return any(broken.invariant == expected for broken in again.violations)

    schedule = shrink(report.schedule, breaks)
    folder = REGRESSIONS if REGRESSIONS.is_dir() else Path()
    path = folder / f"{expected}-{report.seed}.json"
    path.write_bytes(save(Saved(report.seed, schedule, expected, report.config)))
    return f"genesis sim --seed {report.seed} --faults {path}"
