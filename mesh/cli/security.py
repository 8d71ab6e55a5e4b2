"""Verbs of security: token, init; and the file of tokens, which holds hashes alone.

Never here: checking tokens, which gateway and api do.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import click

from mesh.cli import show
from mesh.protocol.tokens import Scope, Tokens
from mesh.runtime.access import TOKENS_FILE
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
