"""Verbs of life: up, down, ps, status.

Never here: how supervisord is spoken to, the checks before a start, what nodes do.
"""

import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from mesh.cli import preflight, show
from mesh.cli.ask import NOT_RUNNING_LINE, ask
from mesh.cli.failures import ERROR, NOT_RUNNING, USAGE, Failure
from mesh.cli.orphans import end_orphans
from mesh.cli.readiness import Ready, wait_ready
from mesh.cli.security import dashboard_token, held
from mesh.cli.supervision import Supervisor, default_nodes
from mesh.runtime.settings import Paths, environment, load_paths, validate_config

SOURCES = ("synthetic", "replay", "live:binance")
STOP_S = 240.0


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE…]")
@click.option("--detach", is_flag=True, help="Return once the mesh is ready; it stays.")
@click.option("--safe-mode", is_flag=True, help="Start in SAFE: no new risk until `mode normal`.")
@click.option(
    "--auto-restart/--no-auto-restart", default=True, help="Whether a node that ends comes back."
)
@click.option("--source", type=click.Choice(SOURCES), help="Of market data; replay takes FILEs.")
@click.option("--speed", type=float, help="Of a replay, times real time; 0: at once.")
@show.as_json
def up(
    files: tuple[Path, ...],
    detach: bool,
    safe_mode: bool,
    auto_restart: bool,
    source: str | None,
    speed: float | None,
    json_: bool,
) -> None:
    """Start the mesh; Ctrl-C stops it, --detach leaves it running."""
    paths = load_paths()
    captures = [file.absolute() for file in files]
    overrides = settings(source, captures, speed, safe_mode)
    supervisor = Supervisor(paths)
    # SIGINT too: a shell starts what it puts in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupted)
    hold: Hold | None = None
    try:
        with held(paths.home):  # of two that start at once, the second finds it running
            refuse_second(supervisor)
            end_orphans(paths)
            check(paths, captures, speed)
            supervisor.clean()
            url = dashboard(paths)
            process = supervisor.start({**environment(), **overrides}, auto_restart=auto_restart)
            hold = Hold(supervisor, process)
            ready = wait_ready(supervisor, process)
            hold.ready = True
        announce(url, ready, json_)
        if not detach:
            hold.wait()
    except BaseException as error:  # whatever it was, Ctrl-C included: what we started ends
        if hold is None:
            raise
        stopped = hold.ready and isinstance(error, KeyboardInterrupt)
        if stopped:
            click.echo("stopping …", err=True)
        hold.end()
        if not stopped:
            raise


def refuse_second(supervisor: Supervisor) -> None:
    """Fail if the mesh runs already."""
    if pid := supervisor.pid():
        raise Failure(ERROR, f"the mesh runs already (pid {pid}); `genesis down` stops it")


def settings(
    source: str | None, captures: list[Path], speed: float | None, safe_mode: bool
) -> dict[str, str]:
    """Return the environment that carries the options to the nodes."""
    if captures and source not in (None, "replay"):
        raise Failure(USAGE, f"--source {source} takes no FILE; use --source replay FILE…")
    if source == "replay" and not captures:
        raise Failure(USAGE, "--source replay needs captures: --source replay FILE…")
    chosen: dict[str, str] = {}
    if source or captures:
        chosen["GENESIS__MARKET_DATA__SOURCE"] = source or "replay"
    if captures:
        encoded = msgspec.json.encode([str(capture) for capture in captures])
        chosen["GENESIS__MARKET_DATA__FILES"] = encoded.decode()
    if speed is not None:
        chosen["GENESIS__MARKET_DATA__SPEED"] = str(speed)
    if safe_mode:
        chosen["GENESIS__COORDINATOR__START_MODE"] = "safe"
    return chosen


def check(paths: Paths, captures: list[Path], speed: float | None) -> None:
    """Fail in one line if the mesh could not start."""
    validate_config(paths)
    preflight.check_speed(speed)
    preflight.check_captures(captures)
    preflight.check_ports(preflight.listeners(paths))
    if url := preflight.database_url(paths):
        preflight.check_database(url)


def dashboard(paths: Paths, *, with_token: bool = True) -> str:
    """Return the URL of the dashboard; the token stands where no log and no server sees it."""
    host, port = preflight.listeners(paths)["api"]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104  # compared, not bound
    url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
    return f"{url}#token={dashboard_token(paths)}" if with_token else url


def announce(url: str, ready: Ready, json_: bool) -> None:
    """Print where the mesh is and what it took."""
    value = {"dashboard": url, "ready_s": ready.seconds, "nodes": ready.nodes}
    show.either(
        json_,
        value,
        lambda: click.echo(
            f"{ready.nodes} nodes up, {ready.mode}, after {ready.seconds} s"
            f"{'' if ready.mode == 'NORMAL' else '; `genesis mode normal` opens'}\n"
            f"dashboard: {url}\n"
            "`genesis ps` shows the nodes, `genesis down` stops them"
        ),
    )


class Hold:
    """The supervisord that we started, in the foreground."""

    def __init__(self, supervisor: Supervisor, process: "subprocess.Popen[bytes]") -> None:
        self.supervisor = supervisor
        self.process = process
        self.ready = False  # from then on Ctrl-C is the ordinary end

    def wait(self) -> None:
        """Return when supervisord has ended, stopped by `genesis down`."""
        status = self.process.wait()
        if status:
            raise Failure(ERROR, f"supervisord ended with {status}; see logs/supervisord.log")

    def end(self) -> None:
        """Stop supervisord and its nodes, however often Ctrl-C is pressed."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        end_orphans(self.supervisor.paths)
        self.supervisor.clean()


def interrupted(number: int, frame: object) -> None:
    """Treat being asked to end, or losing the terminal, as Ctrl-C."""
    del number, frame
    raise KeyboardInterrupt


@click.command()
@show.as_json
def down(json_: bool) -> None:
    """Stop the mesh and wait until nothing of it is left."""
    supervisor = Supervisor(load_paths())
    running = supervisor.pid()
    if running:
        supervisor.stop()
    orphans = end_orphans(supervisor.paths)
    supervisor.clean()
    if not running and not orphans:
        raise Failure(NOT_RUNNING, NOT_RUNNING_LINE)
    show.either(json_, {"stopped": True}, lambda: click.echo("stopped"))


@click.command()
@show.as_json
def ps(json_: bool) -> None:
    """Show the nodes: state, heartbeat, events, latency, memory, restarts."""
    answer: dict[str, Any] = ask("coordinator.status")
    if json_:
        show.document(answer)
        return
    click.echo(f"{answer['mode']} (mode epoch {answer['mode_epoch']}, term {answer['term']})")
    columns = ("node", "state", "pid", "beat ms", "in/s", "out/s", "p50 µs", "p99 µs", "MB")
    show.table((*columns, "restarts"), map(row, answer["nodes"]))


def row(node: Mapping[str, Any]) -> tuple[object, ...]:
    """Return one node as the cells of `genesis ps`."""
    latency = node.get("latency_us") or {}
    names = ("node", "state", "pid", "heartbeat_age_ms", "events_in_s", "events_out_s")
    return (
        *(node.get(name) for name in names),
        latency.get("p50"),
        latency.get("p99"),
        node.get("rss_mb"),
        node.get("restarts"),
    )


@click.command()
@show.as_json
def status(json_: bool) -> None:
    """Show in one line whether all is well."""
    answer: dict[str, Any] = ask("coordinator.status")
    states = {str(node["node"]): str(node["state"]) for node in answer["nodes"]}
    absent = {name: "absent" for name in default_nodes() if name not in states}
    away = {name: state for name, state in {**states, **absent}.items() if state != "UP"}
    value = {
        "mode": answer["mode"],
        "nodes": len(states) + len(absent),
        "up": sum(state == "UP" for state in states.values()),
        "not_up": away,
        "dashboard": dashboard(load_paths(), with_token=False),
    }
    rest = "".join(f"; {name} {state}" for name, state in away.items())
    why = "" if value["mode"] == "NORMAL" else f" ({answer['mode_reason']})"
    line = f"{value['mode']}{why}, {value['up']} of {value['nodes']} nodes up{rest}"
    show.either(json_, value, lambda: click.echo(f"{line}; {value['dashboard']}"))
