"""Verbs on single nodes: tail, call, kill, restart.

Never here: what the payloads mean; schemas of nodes are shown as plain MessagePack.
"""

import asyncio
import contextlib
from typing import Any

import click
import msgpack
import msgspec

from mesh.cli import show
from mesh.cli.ask import NOT_RUNNING_LINE, ask
from mesh.cli.failures import NOT_RUNNING, USAGE, Failure
from mesh.cli.supervision import Supervisor
from mesh.runtime.client import Client
from mesh.runtime.component import EventMeta
from mesh.runtime.settings import Paths, load_paths


@click.command()
@click.argument("topics", nargs=-1, required=True, metavar="TOPIC…")
@click.option("-n", "--count", type=click.IntRange(min=1), help="Stop after so many.")
@show.as_json
def tail(topics: tuple[str, ...], count: int | None, json_: bool) -> None:
    """Print what is published on topics, as it comes.

    TOPIC is a prefix: `md.quote.` is every quote. One JSON line an event.
    """
    del json_  # it is JSON in any case
    paths = load_paths()
    with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is how one leaves
        asyncio.run(follow(paths, list(topics), count))


async def follow(paths: Paths, topics: list[str], count: int | None) -> None:
    """Print events until *count* are seen or the reader goes."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    seen = 0

    def sink(payload: bytes, schema: int, meta: EventMeta) -> None:
        nonlocal seen
        if ended.done():
            return
        try:
            click.echo(event_line(payload, schema, meta))
        except BrokenPipeError as error:
            ended.set_exception(error)
            return
        seen += 1
        if seen == count:
            ended.set_result(None)

    async with Client(paths) as mesh:
        if not mesh.records() and not Supervisor(paths).pid():
            raise Failure(NOT_RUNNING, NOT_RUNNING_LINE)
        mesh.subscribe(topics, sink)
        await ended


def event_line(payload: bytes, schema: int, meta: EventMeta) -> str:
    """Return one event as a line of JSON. ts: nanoseconds at the publisher."""
    line = {
        "topic": meta.topic,
        "node": meta.node,
        "epoch": meta.epoch,
        "seq": meta.seq,
        "offset": meta.offset or None,
        "ts": meta.ts_sent,
        "snapshot": meta.snapshot,
        "schema": schema,
        "data": None if meta.tombstone else unpack(payload),
    }
    return msgspec.json.encode(line).decode()


def unpack(payload: bytes) -> Any:
    """Return the plain value of a payload; what is no MessagePack is shown in hex."""
    try:
        return speakable(msgpack.unpackb(payload, raw=False, strict_map_key=False, timestamp=0))
    except (ValueError, msgpack.UnpackException):
        return {"hex": payload.hex()}


def speakable(value: Any) -> Any:
    """Return *value* with everything JSON cannot say as text."""
    if isinstance(value, dict):
        return {str(key): speakable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [speakable(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


@click.command()
@click.argument("node")
@click.argument("method")
@click.argument("argument", default="null", metavar="[JSON]")
@click.option("--timeout", "wait_s", type=click.FloatRange(0.001, 600.0), default=2.0, help="s")
@show.as_json
def call(node: str, method: str, argument: str, wait_s: float, json_: bool) -> None:
    """Call a method of a node with a JSON argument.

    For example `genesis call market_data market_data.instruments`.
    """
    del json_
    try:
        arg = msgspec.json.decode(argument)
    except msgspec.DecodeError as error:
        raise Failure(
            USAGE, f"the argument is not JSON ({error}); quote it for the shell"
        ) from error
    show.document(speakable(ask(method, arg, target=node, wait_s=wait_s)))


@click.command()
@click.argument("node")
@show.as_json
def kill(node: str, json_: bool) -> None:
    """Kill a node with SIGKILL, to see it come back."""
    pid = Supervisor(load_paths()).kill(node)
    show.either(
        json_,
        {"node": node, "pid": pid},
        lambda: click.echo(f"killed {node} (pid {pid}); `genesis ps` shows it come back"),
    )


@click.command()
@click.argument("node")
@show.as_json
def restart(node: str, json_: bool) -> None:
    """Stop a node in good order and start it again."""
    pid = Supervisor(load_paths()).restart(node)
    show.either(
        json_, {"node": node, "pid": pid}, lambda: click.echo(f"restarted {node} (pid {pid})")
    )
