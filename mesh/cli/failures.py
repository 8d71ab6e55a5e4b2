"""What went wrong, for people: one line (what, why, what to do) and an exit code per kind.

Never here: tracebacks, printing, decisions on what to try next.
"""

import click

from mesh.errors import (
    ConfigError,
    Expired,
    Invalid,
    MeshError,
    NoService,
    NotFound,
    OutcomeUnknown,
    Refused,
    Unavailable,
)

OK, ERROR, USAGE, NOT_RUNNING, CONFIGURATION, TIMEOUT, REFUSED, NOT_FOUND = range(8)
LINE_CHARS_MAX = 500

# First match wins: the kinds of error, the exit code, what to do about it.
KINDS: tuple[tuple[type[BaseException], int, str], ...] = (
    (ConfigError, CONFIGURATION, ""),
    (NotFound, NOT_FOUND, "`genesis ps` lists the nodes"),
    (NoService, NOT_FOUND, "`genesis status` tells who is away"),
    (Invalid, USAGE, "correct the argument"),
    (Expired, TIMEOUT, "try again; `genesis ps` shows who is slow"),
    (Refused, REFUSED, "`genesis mode` shows the mode"),
    (OutcomeUnknown, TIMEOUT, "it may have happened, so look before you repeat it"),
    (Unavailable, TIMEOUT, "try again; `genesis status` tells who is away"),
    (MeshError, ERROR, "logs/error.log tells more"),
    (TimeoutError, TIMEOUT, "try again; `genesis ps` shows who is slow"),
    (OSError, ERROR, ""),
)


class Failure(click.ClickException):
    """A mistake or misfortune the user should read about. message: one line."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(one_line(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance

    def show(self, file: object = None) -> None:
        """Print the line on stderr."""
        click.echo(f"genesis: {self.message}", err=True)


def one_line(text: str) -> str:
    """Return *text* on one printable line of bounded length."""
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in joined)[:LINE_CHARS_MAX]


def explain(error: BaseException) -> BaseException:
    """Return the Failure that tells of *error*, or *error* itself if it is not a known kind."""
    error = innermost(error)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # its text is the whole help
        group = error.ctx.command
        verbs = ", ".join(group.list_commands(error.ctx)) if isinstance(group, click.Group) else ""
        return Failure(USAGE, f"{error.ctx.command_path} needs one of: {verbs}")
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "genesis"
        return Failure(USAGE, f"{error.format_message()} See `{path} --help`.")
    for kind, code, advice in KINDS:
        if isinstance(error, kind):
            return Failure(code, "; ".join(filter(None, (what(error), advice))))
    return error


def what(error: BaseException) -> str:
    """Say what happened, without the name of a class."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or "no answer in time"


def innermost(error: BaseException) -> BaseException:
    """Return the one error inside task groups that carry a single one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
