"""Verbs of trading: mode, orders, fills, positions, balances.

Never here: trading rules; the nodes answer, this shows.
"""

import os
import pwd
from collections.abc import Callable
from typing import Any

import click

from mesh.cli import show
from mesh.cli.ask import ask

MODES = ("normal", "safe", "emergency")
PAGE_MAX = 1_000

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
