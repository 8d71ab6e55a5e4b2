"""The `genesis` command: the list of verbs; each group of verbs is a module, loaded on use.

Never here: a verb's work, imports of nodes, libraries other than click.
"""

import difflib
import importlib
import os
import sys

import click

from mesh import __version__
from mesh.cli.failures import USAGE, Failure, explain

BROKEN_PIPE = 141  # 128 + SIGPIPE, as any program of a pipeline
INTERRUPTED = 130  # 128 + SIGINT

# module of mesh.cli -> verb -> its line of help; the verb is the function of that name.
GROUPS: dict[str, dict[str, str]] = {
    "life": {
        "up": "Start the mesh; Ctrl-C stops it, --detach leaves it running.",
        "down": "Stop the mesh and wait until nothing of it is left.",
        "ps": "Show the nodes: state, heartbeat, events, latency, memory, restarts.",
        "status": "Show in one line whether all is well.",
    },
    "nodes": {
        "tail": "Print what is published on topics, as it comes.",
        "call": "Call a method of a node with a JSON argument.",
        "kill": "Kill a node with SIGKILL, to see it come back.",
        "restart": "Stop a node in good order and start it again.",
    },
    "trading": {
        "mode": "Show the mode, or set it: normal, safe or emergency.",
        "orders": "List orders, newest first.",
        "fills": "List fills, newest first.",
        "positions": "List positions.",
        "balances": "List balances.",
        "trace": "Show what led to an order and what became of it, with times.",
    },
    "data": {"normalize": "Turn captures into normalised JSON lines, or sum them up."},
    "benches": {"bench": "Measure NAME (events, requests, footprint) and judge it by its limits."},
    "security": {
        "token": "Make a token for REST, WebSocket and dashboard and print it.",
        "init": "Create the directories and the file of tokens.",
        "keys": "Make, rotate and revoke the CURVE keys of nodes on other hosts.",
    },
    "proof": {"sim": "Run simulated worlds full of faults, and judge that no promise is broken."},
}
HOMES = {verb: module for module, verbs in GROUPS.items() for verb in verbs}


class Verbs(click.Group):
    """The verbs by name; every mistake ends in one line and the exit code for its kind."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(HOMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in HOMES:
            return None
        module = importlib.import_module(f"mesh.cli.{HOMES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs from the table, so that help loads no group."""
        for module, verbs in GROUPS.items():
            with formatter.section(module.capitalize()):
                formatter.write_dl(list(verbs.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in HOMES:
            near = difflib.get_close_matches(args[0], HOMES, n=1)
            advice = f"did you mean `{near[0]}`?" if near else "see `genesis --help`"
            raise Failure(USAGE, f"no verb {args[0]!r}; {advice}")
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            args = ["--help"]
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise explain(error) from error

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # What is still buffered has no reader; the flush at exit must not fail over it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(BROKEN_PIPE) from None
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None
        except Exception as error:  # only what explain() knows becomes a line; a bug stays loud
            known = explain(error)
            if known is error:
                raise
            raise known from error


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="genesis")
def genesis() -> None:
    """Run and use a Genesis mesh. Every verb takes --json and --help."""


def main() -> None:
    """Run the command line and leave with its exit code."""
    genesis(prog_name="genesis")
