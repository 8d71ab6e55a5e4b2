"""Evolution: old and new read each other's messages; a change that breaks this fails here."""

import json
from datetime import datetime
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import msgspec
import pytest

from mesh.errors import LocalProtocolError, RemoteProtocolError
from mesh.protocol import control, envelope
from mesh.protocol.control import SCHEMAS, Message
from mesh.protocol.evolution import appended_have_defaults, compatible, fingerprint

GOLDEN = Path(__file__).with_name("schemas.golden.json")
KINDS = {
    kind.__name__: kind for kind in Message.__subclasses__() if kind.__module__ == control.__name__
}


class Known(msgspec.Struct, frozen=True):
    """A message as it was when its line in the golden file was written."""

    id: int | None  # schema number, None for a message of the request plane
    fingerprint: tuple[int, ...]


KNOWN = msgspec.json.decode(GOLDEN.read_bytes(), type=dict[str, Known])


def line(kind: type[Message]) -> str:
    """Return the line of *kind* for the golden file."""
    known = {"id": SCHEMAS.get(kind), "fingerprint": fingerprint(kind)}
    return f"{json.dumps(kind.__name__)}: {json.dumps(known)}"


@pytest.mark.parametrize("name", sorted(KINDS.keys() | KNOWN.keys()))
def test_message_is_what_it_was_or_more(name: str) -> None:
    kind, known = KINDS.get(name), KNOWN.get(name)
    assert kind is not None, (
        f"{name} is gone or renamed, but other versions still send it: leave it in control.py"
    )
    assert known is not None, f"{name} is new: add to {GOLDEN.name}\n{line(kind)}"
    assert SCHEMAS.get(kind) == known.id, (
        f"{name} has another number: other versions know it by {known.id}; a new meaning is a"
        " new message with a number never used before"
    )
    size = len(known.fingerprint)
    assert fingerprint(kind)[:size] == known.fingerprint, (
        f"a field of {name} was removed, moved, renamed or changed its type: other versions would"
        " misread it. Append a field with a default, or make a new message with a new number"
    )
    assert appended_have_defaults(kind, size), (
        f"a field appended to {name} has no default: what older versions send would be rejected"
    )
    assert len(fingerprint(kind)) == size, (
        f"{name} has new fields, as it may: replace its line in {GOLDEN.name} by\n{line(kind)}"
    )


class Old(msgspec.Struct, frozen=True, array_like=True):
    """A message, some versions ago."""

    name: str
    count: int


class New(msgspec.Struct, frozen=True, array_like=True):
    """The same today."""

    name: str
    count: int
    note: str = "none"
    parts: tuple[int, ...] = ()


class Careless(msgspec.Struct, frozen=True, array_like=True):
    """The same with a field that old bytes cannot have."""

    name: str
    count: int
    note: str


def test_old_reader_ignores_what_is_appended() -> None:
    payload = envelope.encode_value(New("a", 1, "b", (2, 3)))
    assert envelope.decode_value(payload, Old) == Old("a", 1)


def test_new_reader_fills_in_what_is_missing() -> None:
    payload = envelope.encode_value(Old("a", 1))
    assert envelope.decode_value(payload, New) == New("a", 1, "none", ())


def test_elements_behind_the_last_known_field_are_ignored_whatever_they_are() -> None:
    payload = envelope.encode_value(["a", 1, "b", [2], {"future": [None]}, 7.5])
    assert envelope.decode_value(payload, New) == New("a", 1, "b", (2,))


@pytest.mark.parametrize("short", [[], ["a"]])
def test_missing_field_without_default_is_a_reject(short: list[object]) -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.decode_value(envelope.encode_value(short), New)


def test_field_appended_without_default_rejects_old_bytes() -> None:
    with pytest.raises(RemoteProtocolError):
        envelope.decode_value(envelope.encode_value(Old("a", 1)), Careless)
    assert not appended_have_defaults(Careless, since=2)
    assert appended_have_defaults(New, since=2)
    assert not appended_have_defaults(New, since=1)


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_system_message_of_a_newer_version_is_read(kind: type[Message]) -> None:
    """F58: a neighbour one version on appends a field of its own to every message."""
    newer = msgspec.defstruct(
        f"Newer{kind.__name__}", [("news", str, "new")], bases=(kind,), frozen=True
    )
    old, new = fingerprint(kind), fingerprint(newer)
    assert compatible(old, new)
    assert compatible(new, old)
    assert new[:-1] == old
    assert appended_have_defaults(newer, len(old))


def test_one_field_one_number() -> None:
    assert len(fingerprint(New)) == 4
    assert fingerprint(Old) == fingerprint(New)[:2]
    assert all(0 <= number < 2**32 for number in fingerprint(New))


def test_numbers_are_the_same_in_every_version_of_everything() -> None:
    """Golden: a field "name" of type "str" has crc32("name:str")."""
    assert fingerprint(Old) == (0x5443AC26, 0x7E56D717)


def changed(**fields: Any) -> type[msgspec.Struct]:
    """Return a struct with the *fields* given as name to type."""
    return msgspec.defstruct("Message", list(fields.items()), array_like=True)


@pytest.mark.parametrize(
    "other",
    [
        changed(name=str),
        changed(name=str, count=int),
        changed(name=str, count=int, more=float),
    ],
)
def test_prefixes_understand_each_other(other: type[msgspec.Struct]) -> None:
    assert compatible(fingerprint(Old), fingerprint(other))
    assert compatible(fingerprint(other), fingerprint(Old))


@pytest.mark.parametrize(
    "other",
    [
        changed(count=int, name=str),  # moved
        changed(name=str, quantity=int),  # renamed
        changed(name=str, count=float),  # of another type
        changed(name=str, note=str, count=int),  # put between
        changed(count=int),  # removed
    ],
)
def test_any_other_change_is_told(other: type[msgspec.Struct]) -> None:
    assert not compatible(fingerprint(Old), fingerprint(other))
    assert not compatible(fingerprint(other), fingerprint(Old))


class Side(IntEnum):
    """A choice by number."""

    BUY = 1
    SELL = 2


class Kind(Enum):
    """A choice by name."""

    LIMIT = "limit"


class Inner(msgspec.Struct, array_like=True):
    """A message inside another."""

    a: int


class InnerAppended(msgspec.Struct, array_like=True):
    """The same one version on."""

    a: int
    b: int = 0


class InnerChanged(msgspec.Struct, array_like=True):
    """Another."""

    a: str


class InnerMap(msgspec.Struct):
    """A map on the wire."""

    a: int


class Tree(msgspec.Struct, array_like=True):
    """A message that holds its like."""

    children: "tuple[Tree, ...]"
    pairs: "dict[str, tuple[Tree, int]]"


# Types that look alike on the wire, group by group; no two groups do.
SPELLINGS: list[list[Any]] = [
    [int],
    [float],
    [str],
    [bool],
    [bytes, bytearray, memoryview],
    [None],
    [Any, msgspec.Raw],
    [Decimal],
    [datetime],
    [UUID],
    [list[int], tuple[int, ...], set[int], frozenset[int]],
    [tuple[int, int]],
    [tuple[int, str]],
    [dict[str, int]],
    [dict[int, str]],
    [int | None, None | int],
    [int | str | None],
    [Literal["a", "b"], Literal["a"], Kind],
    [Literal[1], Side],
    [Inner, InnerAppended],  # what is appended inside breaks nobody outside
    [InnerChanged],
    [InnerMap],
    [Tree],
]


def test_types_are_told_apart_as_far_as_bytes_tell_them_apart() -> None:
    numbers = [{fingerprint(changed(x=kind)) for kind in group} for group in SPELLINGS]
    assert all(len(group) == 1 for group in numbers)
    assert len(set.union(*numbers)) == len(SPELLINGS)


def test_type_that_no_message_carries_is_our_own_fault() -> None:
    with pytest.raises(LocalProtocolError):
        fingerprint(changed(x=msgspec.msgpack.Ext))
