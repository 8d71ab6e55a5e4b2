"""Show answers: JSON documents for programs, tables for people.

Never here: asking for them, colours as the only sign of something.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click
import msgspec

PIPE_COLUMNS = 10_000

as_json = click.option("--json", "json_", is_flag=True, help="Print one JSON document.")


def document(value: object) -> None:
    """Print *value* as one line of JSON."""
    click.echo(msgspec.json.encode(value).decode())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print *rows* under *columns*; numbers to the right; no markup is read from the cells."""
    from rich.console import Console  # loaded only to draw
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
    body = [[cell(value) for value in row] for row in rows]
    for place, column in enumerate(drawn.columns):
        if body and all(is_number(row[place]) for row in body):
            column.justify = "right"
        column.no_wrap = True
    for row in body:
        drawn.add_row(*(Text(text) for text in row))
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or a pipe gets whole lines, not an assumed 80 columns
        console.width = PIPE_COLUMNS
    console.print(drawn)


def items(answer: dict[str, Any], json_: bool, columns: Sequence[str]) -> None:
    """Print a page of items; a column `a.b` is field b of field a, headed b."""
    if json_:
        document(answer)
        return
    headers = [column.rpartition(".")[2] for column in columns]
    table(headers, ([field(item, name) for name in columns] for item in answer["items"]))
    if answer.get("next"):
        click.echo(f"more: --cursor {answer['next']}")


def field(item: Any, path: str) -> object:
    """Return what lies at a dotted *path*, None where there is nothing."""
    for name in path.split("."):
        item = item.get(name) if isinstance(item, dict) else None
    found: object = item
    return found


def either(json_: bool, value: object, human: Callable[[], None]) -> None:
    """Print *value* as JSON if asked for, else let *human* print."""
    if json_:
        document(value)
    else:
        human()


def cell(value: object) -> str:
    """Return the text of one cell; a dash says that nothing is known."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)


def is_number(text: str) -> bool:
    """Return whether a cell holds a number or nothing."""
    return text == "-" or text.removeprefix("-").replace(".", "", 1).isdigit()
