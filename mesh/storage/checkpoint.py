"""Checkpointer: a component's state, saved atomically, restored only if every byte fits.

A file is magic, format, generation, length, CRC-32, then MessagePack. Saving writes a new
file, syncs it, renames it, syncs the directory and keeps the newest three; restoring takes
the newest that verifies and sets bad ones aside.

Never here: pickle, the meaning of state.
"""

import re
import struct
import zlib
from pathlib import Path
from typing import Any, Final

import msgspec

from mesh.errors import Invalid, StorageError
from mesh.storage.files import write_durably

KEPT: Final = 3
STATE_MAX_BYTES: Final = 16 * 1024 * 1024
_HEADER: Final = struct.Struct("<4sHQII")
_MAGIC: Final = b"GNCK"
_FORMAT: Final = 1
_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")


class Checkpointer:
    """Save and restore the state of *component_id* under *storage_path*.

    Raises Invalid for an id that is not a plain name, StorageError where the disk fails.
    """

    def __init__(self, component_id: str, storage_path: str | Path = "./checkpoints") -> None:
        if not _ID.fullmatch(component_id) or len(component_id) > 64:
            raise Invalid(f"not a component id: {component_id[:64]!r}")
        self.component_id = component_id
        self.storage_path = Path(storage_path)

    def save_checkpoint(self, state: object) -> int:
        """Store *state* (anything MessagePack holds); return its generation."""
        payload = msgspec.msgpack.encode(state)
        if len(payload) > STATE_MAX_BYTES:
            raise StorageError(f"state of {self.component_id} has {len(payload)} bytes")
        try:
            return self._write(payload)
        except OSError as error:
            raise StorageError(f"checkpoint {self.component_id}: {error}") from error

    def restore_checkpoint(self) -> Any:
        """Return the newest state that verifies, or None."""
        for _, path in reversed(self._files()):
            payload = self._verified(path)
            if payload is not None:
                return msgspec.msgpack.decode(payload)
            path.replace(path.with_suffix(".bad"))
        return None

    def _write(self, payload: bytes) -> int:
        files = self._files()
        generation = files[-1][0] + 1 if files else 1
        path = self.storage_path / f"{self.component_id}.{generation}.ckpt"
        header = _HEADER.pack(_MAGIC, _FORMAT, generation, len(payload), zlib.crc32(payload))
        write_durably(path, header + payload)
        for _, old in files[: max(0, len(files) - KEPT + 1)]:
            old.unlink(missing_ok=True)
        return generation

    def _files(self) -> list[tuple[int, Path]]:
        pattern = re.compile(re.escape(self.component_id) + r"\.(\d+)\.ckpt")
        found = (
            (int(match[1]), path)
            for path in self.storage_path.glob("*.ckpt")
            if (match := pattern.fullmatch(path.name)) and not path.is_symlink()
        )
        return sorted(found)

    def _verified(self, path: Path) -> bytes | None:
        raw = path.read_bytes()
        if len(raw) < _HEADER.size:
            return None
        magic, form, generation, length, crc = _HEADER.unpack_from(raw)
        payload = raw[_HEADER.size :]
        whole = (magic, form, length) == (_MAGIC, _FORMAT, len(payload))
        named = path.name == f"{self.component_id}.{generation}.ckpt"
        return payload if whole and named and crc == zlib.crc32(payload) else None
