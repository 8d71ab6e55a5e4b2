"""Verbs of trading: mode, orders, fills, positions, balances, trace.

Never here: trading rules; the nodes answer, this shows.
"""

import os
import pwd
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click

from mesh.cli import show
from mesh.cli.ask import NOT_RUNNING_LINE, ask
from mesh.cli.failures import NOT_FOUND, NOT_RUNNING, Failure
from mesh.cli.supervision import Supervisor
from mesh.cli.waterfall import Hop, journals, waterfall
from mesh.runtime.settings import MeshSettings, convert, load_paths, load_toml, section_of

MODES = ("normal", "safe", "emergency")
PAGE_MAX = 1_000
SPAN_CHARS = 30  # from the first hop to the last

# what execution answers for -> the columns people see; --json has every field
LISTS: dict[str, tuple[str, ...]] = {
    "orders": (
        *("intent.client_order_id", "intent.instrument", "intent.side", "intent.kind"),
        *("intent.quantity", "intent.price", "state", "filled", "reason"),
    ),
    "fills": (
        *("fill_id", "client_order_id", "instrument", "side", "quantity", "price"),
        *("fee", "fee_ccy"),
    ),
    "positions": (
        *("account", "strategy", "instrument", "signed_quantity", "cost", "realized"),
        "fees_quote",
    ),
    "balances": ("account", "ccy", "total", "locked"),
}


def who() -> str:
    """Return who is asking, for the record of mode changes."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:  # a container's user need not have a name
        return f"cli:{os.getuid()}"


@click.command()
@click.argument("wanted", required=False, type=click.Choice(MODES), metavar="[MODE]")
@click.option("--reason", default="set by hand", help="Kept with the change.")
@show.as_json
def mode(wanted: str | None, reason: str, json_: bool) -> None:
    """Show the mode, or set it: normal, safe or emergency."""
    if wanted is None:
        answer = ask("coordinator.status")
    else:
        change = {"mode": wanted, "reason": reason, "by": who()}
        answer = ask("mesh.set_mode", change, wait_s=5.0)
    now = {
        "mode": str(answer["mode"]).upper(),
        "mode_epoch": answer["mode_epoch"],
        "term": answer["term"],
    }
    show.either(json_, now, lambda: click.echo(now["mode"]))


def listing(name: str, line: str) -> click.Command:
    """Return the verb that lists *name*, page by page."""

    @click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=100, show_default=True)
    @click.option("--cursor", help="Where the page before ended.")
    @show.as_json
    def verb(limit: int, cursor: str | None, json_: bool) -> None:
        answer: dict[str, Any] = ask(f"execution.{name}", {"limit": limit, "cursor": cursor})
        show.items(answer, json_, LISTS[name])

    command: Callable[[Callable[..., None]], click.Command] = click.command(name, help=line)
    return command(verb)


orders = listing("orders", "List orders, newest first.")
fills = listing("fills", "List fills, newest first.")
positions = listing("positions", "List positions.")
balances = listing("balances", "List balances.")


@click.command()
@click.argument("order_id")
@show.as_json
def trace(order_id: str, json_: bool) -> None:
    """Show what led to an order and what became of it, with times.

    It reads the journals on disk, so it works while nodes are down.
    """
    paths = load_paths()
    cluster = convert(section_of(load_toml(paths), "mesh"), "mesh", MeshSettings).cluster
    if not journals(paths) and not Supervisor(paths).pid():
        raise Failure(NOT_RUNNING, NOT_RUNNING_LINE)
    hops = waterfall(paths, cluster, order_id)
    if not hops:
        advice = "`genesis orders` lists orders; what is old may have been deleted"
        raise Failure(NOT_FOUND, f"no journal here names the order {order_id!r}; {advice}")
    steps = [
        {"node": hop.node, "what": hop.what, "t_ns": hop.t_ns, "us_since_previous": since_us}
        for hop, since_us in zip(hops, steps_us(hops), strict=True)
    ]
    show.either(json_, {"order_id": order_id, "hops": steps}, lambda: draw(hops))


def steps_us(hops: list[Hop]) -> list[float]:
    """Return for each hop the microseconds since the one before, 0 for the first."""
    return [
        (hop.t_ns - before.t_ns) / 1_000
        for before, hop in zip([hops[0], *hops], hops, strict=False)
    ]


def draw(hops: list[Hop]) -> None:
    """Print the hops, each as far to the right as it is late."""
    began, took = hops[0].t_ns, max(1, hops[-1].t_ns - hops[0].t_ns)
    rows = [
        (hop.node, hop.what, clock(hop.t_ns), since_us,
         " " * (SPAN_CHARS * (hop.t_ns - began) // took) + "*")
        for hop, since_us in zip(hops, steps_us(hops), strict=True)
    ]  # fmt: skip
    show.table(("node", "what", "time (UTC)", "µs later", f"{took / 1e6:.3f} ms"), rows)


def clock(t_ns: int) -> str:
    """Return the time of day, in UTC, to the microsecond."""
    return f"{datetime.fromtimestamp(t_ns // 10**9, UTC):%H:%M:%S}.{t_ns % 10**9 // 1_000:06d}"
