"""mesh/README.md says what the code does, wherever a table can be compared with it."""

import asyncio
import importlib
import json
import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zmq

from mesh import errors
from mesh.protocol import control, envelope, rpcs
from mesh.runtime.settings import ROOT
from mesh.transport.auth import Authenticator
from mesh.transport.sockets import Sockets
from tests.wire import golden_frames

TEXT = (ROOT / "mesh/README.md").read_text("utf-8")
UNITS = {"": 1, "ms": 1, "s": 1, "bytes": 1, "KiB": 1024, "MiB": 1024 * 1024}
LETTERS = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "16 B": "16s"}


def table(first: str, second: str) -> list[list[str]]:
    """Return the rows of the one table whose header begins with these two cells."""
    head = re.escape(f"| {first} | {second} |")
    found = re.findall(rf"^{head}.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)
    assert found, f"no table | {first} | {second} |"
    assert len(found) == 1
    return rows(found[0])


def section(title: str) -> list[list[str]]:
    """Return the rows of the table behind a heading."""
    text = TEXT.partition(f"\n### {title}\n")[2]
    found = re.search(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert found, f"no table in {title}"
    return rows(found[1])


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines()]


def number(text: str) -> float:
    """Return what '16 KiB', '10,000' or '0.05 s' is."""
    digits, _, unit = text.partition(" ")
    return float(digits.replace(",", "")) * UNITS[unit]


def names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


def fields(kind: type) -> tuple[str, ...]:
    return tuple(kind.__struct_fields__)  # type: ignore[attr-defined]  # a Struct


@pytest.mark.parametrize(
    ("title", "layout", "magic"),
    [
        ("Event header", envelope._EVENT, envelope.EVENT_MAGIC),
        ("Request header", envelope._RPC, envelope.RPC_MAGIC),
    ],
)
def test_header_tables_add_up_to_the_layout(title: str, layout: struct.Struct, magic: int) -> None:
    told = section(title)
    spelled = "<" + "".join(LETTERS[kind] for _, kind, *_ in told)
    assert spelled == layout.format
    for end, (at, *_) in enumerate(told):
        assert int(at) == struct.calcsize(
            "<" + "".join(LETTERS[kind] for _, kind, *_ in told[:end])
        )
    assert told[0][3] == f"0x{magic:X}"
    assert told[1][3] == str(envelope.WIRE)


def test_flags() -> None:
    told = {name: 1 << int(bit) for bit, name, _ in section("Flags")}
    assert told == {name: getattr(envelope, name) for name in told}
    assert sum(told.values()) | 1 << 5 == 0x1FF  # bit 5 is nobody's
    assert envelope.MUST_UNDERSTAND == 0xFF00


def test_schemas_and_their_fields() -> None:
    told = {
        kind: (int(at, 16), names(what)) for at, kind, _, what in section("Schemas of the mesh")
    }
    made = {kind.__name__: (at, fields(kind)) for kind, at in control.SCHEMAS.items()}
    assert told == made


def test_kinds() -> None:
    told = {name: int(kind) for kind, name, _ in section("Kinds")}
    assert told == {kind.name: int(kind) for kind in envelope.Kind}


def test_bodies_of_kinds() -> None:
    told = {name: body for _, name, body in section("Kinds")}
    for name, kind in (
        ("HELLO", control.Hello),
        ("WELCOME", control.Welcome),
        ("ERR", control.Failure),
        ("END", rpcs.End),
        ("PING", rpcs.Ping),
        ("PONG", rpcs.Pong),
        ("CREDIT", rpcs.Credit),
        ("GOAWAY", rpcs.Goaway),
    ):
        assert told[name] == f"`[{', '.join(fields(kind))}]`"


def test_record() -> None:
    assert tuple(name.strip("`") for name, _ in section("Record")) == fields(control.Record)


def test_methods_and_what_they_take_and_give() -> None:
    for _, _, *sides in section("Methods of the mesh"):
        for side in sides:
            name, colon, listed = side.partition(": ")
            if colon and name != "map":
                assert names(listed) == fields(getattr(control, name)), side


def test_methods_are_served() -> None:
    told = {name.strip("`"): where for name, where, *_ in section("Methods of the mesh")}
    bus = (ROOT / "mesh/runtime/everynode.py").read_text("utf-8")
    coordinator = (ROOT / "nodes/coordinator/node.py").read_text("utf-8")
    for name, where in told.items():
        assert f'"{name}"' in (coordinator if where == "coordinator" else bus)
    served = re.findall(r'"(mesh\.\w+)": self', bus) + re.findall(
        r'@request\("(mesh\.\w+)"', coordinator
    )
    assert set(told) == set(served)


def test_error_codes() -> None:
    told = {code: executed for code, executed, _ in section("Errors")}
    ours = (kind for kind in errors.by_code().values() if kind.__module__ == errors.__name__)
    assert told == {kind.code: kind.executed for kind in ours}


@pytest.mark.parametrize(("what", "value", "where"), table("what", "value"))
def test_limits(what: str, value: str, where: str) -> None:
    module, _, name = where.strip("`").rpartition(".")
    assert getattr(importlib.import_module(f"mesh.{module}"), name) == number(value), what


@pytest.fixture
async def sockets(tmp_path: Path) -> "AsyncIterator[dict[str, zmq.Socket[bytes]]]":
    made = Sockets()
    door = Authenticator(asyncio.get_running_loop(), made)
    place = f"ipc://{tmp_path}/r"
    yield {
        "`e`": made.publisher(f"ipc://{tmp_path}/e", durable=False),
        "`d`": made.publisher(f"ipc://{tmp_path}/d", durable=True),
        "to `e`": made.subscriber(durable=False),
        "to `d`": made.subscriber(durable=True),
        "`r`": made.responder(place),
        "to `r`": made.requester(place),
    }
    door.close()
    made.close()


async def test_sockets_and_their_options(sockets: "dict[str, zmq.Socket[bytes]]") -> None:
    told = table("socket", "type")
    assert {name for name, *_ in told} == set(sockets)
    for name, kind, send, receive, size, more in told:
        sock = sockets[name]
        assert zmq.SocketType(int(sock.getsockopt(zmq.TYPE))).name == kind
        assert sock.getsockopt(zmq.SNDHWM) == number(send), name
        assert sock.getsockopt(zmq.RCVHWM) == number(receive), name
        assert sock.getsockopt(zmq.MAXMSGSIZE) == number(size), name
        assert ("IMMEDIATE" in more) == bool(sock.getsockopt(zmq.IMMEDIATE))
        for option, value in table("option of all", "value"):
            assert sock.getsockopt(getattr(zmq, option)) == number(value), option


def test_hex_example_is_the_golden_head() -> None:
    stored = json.loads((golden_frames.FOLDER / "events.json").read_text("utf-8"))
    head = next(entry for entry in stored if entry["name"] == "head")
    (block,) = re.findall(r"```\n(ff .*?)```", TEXT, re.DOTALL)
    told = [re.split(r"\s{2,}", line)[0] for line in block.splitlines()]
    assert "".join(told).replace(" ", "") == "".join(head["hex"])
