"""Verbs of security: token, init, keys; and the file of tokens, which holds hashes alone.

Never here: checking tokens, which gateway and api do; secrets on the screen.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import click

from mesh.cli import show
from mesh.cli.failures import NOT_FOUND, REFUSED, Failure
from mesh.cli.supervision import default_nodes
from mesh.errors import Conflict, NotFound
from mesh.protocol.access import GUEST
from mesh.protocol.tokens import Scope, Tokens
from mesh.runtime.access import TOKENS_FILE
from mesh.runtime.keys import Entry, KeyStore, load_access
from mesh.runtime.settings import Paths, load_paths
from mesh.storage.files import write_durably

TOKEN_BYTES = 32
DASHBOARD_FILE = "dashboard.sha256"  # which of the hashes is the one of the printed URL


def make_token(paths: Paths, scope: Scope) -> str:
    """Add a new token of *scope* and return it; it cannot be shown again."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with held(paths.state):
        save(paths, load(paths).with_token(scope, token))
    return token


def dashboard_token(paths: Paths) -> str:
    """Return a new token of scope operate for the dashboard; the one before it is void."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with held(paths.state):
        kept = without(load(paths), old_dashboard(paths))
        grown = kept.with_token(Scope.OPERATE, token)
        save(paths, grown)
        write_durably(paths.state / DASHBOARD_FILE, grown.hashes[Scope.OPERATE][-1].encode())
    return token


def old_dashboard(paths: Paths) -> str:
    """Return the hash of the dashboard's token, empty if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return (paths.state / DASHBOARD_FILE).read_text("utf-8").strip()
    return ""


def without(tokens: Tokens, digest: str) -> Tokens:
    """Return *tokens* less the operate token whose hash is *digest*."""
    left = tuple(known for known in tokens.hashes.get(Scope.OPERATE, ()) if known != digest)
    return Tokens({**tokens.hashes, Scope.OPERATE: left})


def load(paths: Paths) -> Tokens:
    """Return the tokens on disk, none if there is no file."""
    try:
        return Tokens.parse((paths.state / TOKENS_FILE).read_text("utf-8"))
    except FileNotFoundError:
        return Tokens()


def save(paths: Paths, tokens: Tokens) -> None:
    """Replace the file of tokens."""
    write_durably(paths.state / TOKENS_FILE, tokens.format().encode())


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Keep others who change the tokens out, by a lock on the directory itself."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@click.command()
@click.option("--scope", type=click.Choice([scope.value for scope in Scope]), default="view")
@show.as_json
def token(scope: str, json_: bool) -> None:
    """Make a token for REST, WebSocket and dashboard and print it.

    Only its hash is kept: it cannot be shown again. trade includes view, operate includes both.
    """
    made = make_token(load_paths(), Scope(scope))
    show.either(json_, {"scope": scope, "token": made}, lambda: click.echo(made))


@click.command()
@show.as_json
def init(json_: bool) -> None:
    """Create the directories and the file of tokens; harmless when they are there."""
    paths = load_paths()
    for directory in (paths.state, paths.logs, paths.run, paths.checkpoints):
        directory.mkdir(parents=True, exist_ok=True)
    with held(paths.state):
        save(paths, load(paths))
    show.either(json_, {"home": str(paths.home)}, lambda: click.echo(f"ready: {paths.home}"))


@click.group()
def keys() -> None:
    """Make, rotate and revoke the CURVE keys of nodes on other hosts.

    Secrets are files of mode 0600 and never shown; keys/authorized.toml says whose keys are good.
    Every verb takes --json.
    """


@keys.command("init")
@show.as_json
def keys_init(json_: bool) -> None:
    """Make a key for every default node; refuses to overwrite any."""
    with store() as files:
        access = load_access(load_paths())
        roles = {node: access.role_of(node) or GUEST for node in default_nodes()}
        made = files.create(roles)
    where = files.directory
    show.either(
        json_,
        {"directory": str(where), "nodes": {n: e.current for n, e in made.nodes.items()}},
        lambda: click.echo(
            f"keys of {len(made.nodes)} nodes are in {where}; restart the mesh to use them"
        ),
    )


@keys.command("add")
@click.argument("node")
@click.option("--role", help="What it may do; by default as its name says, else guest.")
@show.as_json
def keys_add(node: str, role: str | None, json_: bool) -> None:
    """Make a key for one more NODE; running nodes know it within a second."""
    with store() as files:
        access = load_access(load_paths())
        role = role or access.role_of(node) or GUEST
        access.assign({node: role})
        entry = files.add(node, role)
    tell(json_, node, entry, f"{node} has a key as {role}; start it, here or with a copy of keys/")


@keys.command("rotate")
@click.argument("node")
@click.option("--finish", is_flag=True, help="Drop the old key, once NODE runs with the new one.")
@show.as_json
def keys_rotate(node: str, finish: bool, json_: bool) -> None:
    """Give NODE a new key in two steps: rotate, restart NODE, rotate --finish."""
    with store() as files:
        entry = files.finish(node) if finish else files.rotate(node)
    next_step = (
        f"the old key of {node} is void; sessions that used it end within a second"
        if finish
        else f"both keys of {node} are good now; "
        f"`genesis restart {node}`, then `genesis keys rotate {node} --finish`"
    )
    tell(json_, node, entry, next_step)


@keys.command("revoke")
@click.argument("node")
@show.as_json
def keys_revoke(node: str, json_: bool) -> None:
    """Take every key of NODE out of force, at once."""
    with store() as files:
        files.revoke(node)
    show.either(
        json_,
        {"node": node},
        lambda: click.echo(f"no key of {node} is good any more; it is out within a second"),
    )


@contextlib.contextmanager
def store() -> Iterator[KeyStore]:
    """Open the key files for one who changes them; others wait. Refusals say what to do."""
    paths = load_paths()
    try:
        with held(paths.state):
            yield KeyStore(paths)
    except (Conflict, NotFound) as error:
        code = REFUSED if isinstance(error, Conflict) else NOT_FOUND
        raise Failure(code, str(error)) from None


def tell(json_: bool, node: str, entry: Entry, line: str) -> None:
    """Print what is public of a node's keys, or *line*, which says how to go on."""
    show.either(
        json_,
        {"node": node, "role": entry.role, "current": entry.current, "next": entry.next or None},
        lambda: click.echo(line),
    )
