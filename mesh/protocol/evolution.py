"""Evolution: what tells whether two versions of a message understand each other.

Messages are arrays in field order, so fields may only be appended, and with defaults: an old
reader skips what it does not know, a new one fills in what is missing.

Never here: encoding, which schema has which number.
"""

from collections.abc import Mapping
from functools import cache
from typing import Final, TypeAlias
from zlib import crc32

import msgspec
from msgspec import inspect

from mesh.errors import LocalProtocolError

Fingerprint: TypeAlias = tuple[int, ...]  # a u32 per field

# As on the wire: a list and a tuple of any length are both arrays.
_SCALARS: Final[Mapping[type[inspect.Type], str]] = {
    inspect.AnyType: "any",
    inspect.BoolType: "bool",
    inspect.ByteArrayType: "bytes",
    inspect.BytesType: "bytes",
    inspect.DateTimeType: "datetime",
    inspect.DateType: "date",
    inspect.DecimalType: "decimal",
    inspect.FloatType: "float",
    inspect.IntType: "int",
    inspect.MemoryViewType: "bytes",
    inspect.NoneType: "none",
    inspect.RawType: "any",
    inspect.StrType: "str",
    inspect.UUIDType: "uuid",
}


@cache
def fingerprint(kind: type[msgspec.Struct]) -> Fingerprint:
    """Return one u32 per field of *kind*, in order: the crc32 of "name:type".

    Raises LocalProtocolError for a type that has no spelling.
    """
    return _fields(kind, ())


def compatible(ours: Fingerprint, theirs: Fingerprint) -> bool:
    """Say whether one is the other with fields appended."""
    return all(our == their for our, their in zip(ours, theirs, strict=False))


def appended_have_defaults(kind: type[msgspec.Struct], since: int) -> bool:
    """Say whether the fields of *kind* from the *since*-th on may be missing in old bytes."""
    return not any(field.required for field in msgspec.structs.fields(kind)[since:])


def _fields(kind: type[msgspec.Struct], inside: tuple[type, ...]) -> Fingerprint:
    """inside: the structs whose fields are being spelled, for one may hold itself."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    return tuple(
        crc32(f"{field.name}:{_spelling(field.type, (*inside, kind))}".encode())
        for field in info.fields
    )


def _spelling(info: inspect.Type, inside: tuple[type, ...]) -> str:
    if (scalar := _SCALARS.get(type(info))) is not None:
        return scalar
    match info:
        case inspect.CollectionType():
            return f"[{_spelling(info.item_type, inside)}]"
        case inspect.TupleType():
            return f"({','.join(_spelling(item, inside) for item in info.item_types)})"
        case inspect.DictType():
            key, value = (_spelling(t, inside) for t in (info.key_type, info.value_type))
            return f"{{{key}:{value}}}"
        case inspect.UnionType():
            return "|".join(sorted(_spelling(member, inside) for member in info.types))
        case inspect.LiteralType() | inspect.EnumType():
            return _one_of(info)
        case inspect.StructType():
            return _nested(info, inside)
        case _:
            raise LocalProtocolError(f"no message can carry a {type(info).__name__}")


def _one_of(info: inspect.LiteralType | inspect.EnumType) -> str:
    """Spell a choice by the types of its members, for members may be added."""
    members = [m.value for m in info.cls] if isinstance(info, inspect.EnumType) else info.values
    return "one of " + "/".join(sorted({type(member).__name__ for member in members}))


def _nested(info: inspect.StructType, inside: tuple[type, ...]) -> str:
    """Spell a struct in a struct by its required fields.

    What is appended to it has a default and breaks neither reader, so it must not make the
    message around it look like another.
    """
    if info.cls in inside:
        return f"^{inside[::-1].index(info.cls)}"
    required = sum(field.required for field in info.fields)
    body = ",".join(f"{crc:08x}" for crc in _fields(info.cls, inside)[:required])
    return f"<{'' if info.array_like else 'map '}{info.tag!r} {body}>"
