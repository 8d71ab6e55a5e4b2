"""Checkpointer: a component's state, saved atomically, restored only if every byte fits.

A checkpoint only shortens replay; truth is the journal and the venue. The newest three files
are kept. Restoring takes the newest that verifies and keeps bad ones aside, as .bad.

Never here: pickle, the meaning of state, when to save.
"""

import asyncio
import os
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from threading import Lock
from typing import Any, Final, TypeAlias

from mesh.clock import monotonic_s
from mesh.errors import Invalid, LocalProtocolError, StorageError
from mesh.protocol.commits import Applied
from mesh.storage.image import (
    IMAGE_MAX_BYTES,
    STATE_MAX_BYTES,
    Checkpoint,
    decode,
    encode,
    encode_body,
)
from mesh.storage.private import PrivateDirectory, Unfit, translated

__all__ = ["KEPT", "STATE_MAX_BYTES", "Checkpoint", "Checkpointer", "Positions", "Upgrade"]

Positions: TypeAlias = tuple[Applied, ...]
Upgrade: TypeAlias = Callable[[Any, Positions], tuple[Any, Positions]]  # schema n to n + 1
Ends: TypeAlias = Mapping[str, tuple[str, int]]  # node to log_id and last offset of its log

KEPT: Final = 3
ENCODING_S: Final = 0.005  # encoding holds up the loop; more than this is told
SCHEMA_MAX: Final = 2**32 - 1
_ID: Final = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")
_GENERATION: Final = r"\.([1-9][0-9]{0,17})"  # fits 64 bits, with one spelling each


class Checkpointer:
    """Save and restore the state of *component_id* under *storage_path*.

    schema: number of the state's shape; upgrades: by number n, what makes state and positions
    of schema n + 1 of those of schema n. epoch: of this run, written into the file. report:
    gets a line for each rejected file and each slow encoding; *rejections* keeps the last ones
    of the first kind.

    The first save makes it the writer of its files until :meth:`close`, or until it is
    forgotten. Raises Invalid for an id that is no plain name or a state that cannot be
    stored, Unavailable on a full disk, StorageError where the disk or the directory cannot
    be trusted and if there is another writer.
    """

    def __init__(
        self,
        component_id: str,
        storage_path: str | Path = "./checkpoints",
        *,
        schema: int = 1,
        epoch: int = 0,
        upgrades: Mapping[int, Upgrade] | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        if not _ID.fullmatch(component_id) or len(component_id) > 64:
            raise Invalid(f"not a component id: {component_id[:64]!r}")
        if not 1 <= schema <= SCHEMA_MAX:
            raise LocalProtocolError(f"{component_id}: schema {schema}; the first one is 1")
        self.component_id = component_id
        self.storage_path = Path(storage_path)
        self.schema, self.epoch = schema, epoch
        self.rejections: list[str] = []
        self._upgrades = upgrades or {}
        self._report = report or (lambda _: None)
        self._file = re.compile(re.escape(component_id) + _GENERATION + r"\.(ckpt|bad)")
        self._saving = asyncio.Lock()  # saves wait here, before they take memory
        self._writing = Lock()
        self._encoded = self._written = 0  # numbers of the last body encoded, and written
        self._generation = 0  # of the last one written
        self._unlock: weakref.finalize[[int], Checkpointer] | None = None

    def close(self) -> None:
        """Let another one write; idempotent."""
        with self._writing:
            if self._unlock:
                self._unlock()
                self._unlock = None

    def save_checkpoint(self, state: object, positions: Iterable[Applied] = ()) -> int:
        """Store *state* (anything MessagePack holds); return its generation. Blocks."""
        return self._write(*self._encode(state, positions))

    async def save(self, state: object, positions: Iterable[Applied] = ()) -> int:
        """Store *state* as it is once earlier saves are done; return its generation.

        Encodes on the loop, for *state* must not change meanwhile, and writes in a thread.
        Cancelling is safe: the old or the new checkpoint is there. One that was overtaken by
        save_checkpoint is not written any more.
        """
        async with self._saving:
            return await asyncio.to_thread(self._write, *self._encode(state, positions))

    def restore_checkpoint(self, ends: Ends | None = None) -> Any:
        """Return the newest state that verifies, in today's schema, or None. Blocks."""
        found = self.restore(ends)
        return None if found is None else found.state

    def restore(self, ends: Ends | None = None) -> Checkpoint | None:
        """Return the newest checkpoint that verifies, its state in today's schema, or None.

        *ends*: of the logs known already; one that reaches beyond the end of its log is
        rejected, too. Blocks.
        """
        with translated(f"checkpoint {self.component_id}"):
            try:
                directory = PrivateDirectory(self.storage_path, make=False)
            except FileNotFoundError:
                return None
            with closing(directory):
                for generation in self._generations(directory)[::-1]:
                    try:
                        return self._verified(directory, generation, ends or {})
                    except FileNotFoundError:  # a writer has just deleted it
                        continue
                    except Unfit as unfit:
                        self._reject(directory, generation, str(unfit))
        return None

    # --- saving ---

    def _encode(self, state: object, positions: Iterable[Applied]) -> tuple[int, bytes]:
        began = monotonic_s()
        body = encode_body(self.component_id, state, tuple(positions))
        took_s = monotonic_s() - began
        if took_s > ENCODING_S:
            self._report(f"CHECKPOINT_SLOW {self.component_id}: encoding took {took_s:.3f} s")
        self._encoded += 1
        return self._encoded, body

    def _write(self, number: int, body: bytes) -> int:
        with self._writing, translated(f"checkpoint {self.component_id}"):
            if number < self._written:
                return self._generation  # a newer state is there already
            with closing(PrivateDirectory(self.storage_path, make=True)) as directory:
                self._be_writer(directory)
                generation = self._next(directory)
                content = encode(self.component_id, generation, self.epoch, self.schema, body)
                directory.write(
                    self._named(generation), content, fresh=f".{self.component_id}.tmp"
                )
                self._written, self._generation = number, generation
                for old in self._generations(directory)[:-KEPT]:
                    directory.remove(self._named(old))
            return generation

    def _be_writer(self, directory: PrivateDirectory) -> None:
        if self._unlock:
            return
        try:
            lock = directory.lock(f".{self.component_id}.lock")
        except BlockingIOError as error:
            raise StorageError(
                f"checkpoints of {self.component_id} have another writer"
            ) from error
        self._unlock = weakref.finalize(self, os.close, lock)

    def _next(self, directory: PrivateDirectory) -> int:
        """Return a number that no file has or had, that of a rejected one included."""
        numbers = self._generations(directory) + self._generations(directory, "bad")
        return max(numbers, default=0) + 1

    # --- restoring ---

    def _verified(self, directory: PrivateDirectory, generation: int, ends: Ends) -> Checkpoint:
        raw = directory.read(self._named(generation), IMAGE_MAX_BYTES)
        found = self._upgraded(decode(self.component_id, generation, raw))
        for node, log_id, offset in found.positions:
            known_id, last = ends.get(node, (log_id, offset))
            if known_id == log_id and offset > last:
                raise Unfit(f"is ahead of the log of {node}: offset {offset}, it ends at {last}")
        return found

    def _upgraded(self, found: Checkpoint) -> Checkpoint:
        if not 1 <= found.schema <= self.schema:
            raise Unfit(f"has schema {found.schema}, {self.schema} is known")
        state, positions = found.state, found.positions
        for schema in range(found.schema, self.schema):
            upgrade = self._upgrades.get(schema)
            if upgrade is None:
                raise Unfit(f"has schema {found.schema}, and nothing upgrades schema {schema}")
            try:
                state, positions = upgrade(state, positions)
            except Exception as error:  # old state may surprise in any way, an older file helps
                raise Unfit(f"does not survive the upgrade from schema {schema}") from error
        return Checkpoint(state, positions, self.schema, found.epoch, found.generation)

    def _reject(self, directory: PrivateDirectory, generation: int, reason: str) -> None:
        name, aside = self._named(generation), self._named(generation, "bad")
        try:
            directory.rename(name, aside)
            dropped = self._generations(directory, "bad")[:-KEPT]
            for old in dropped:
                directory.remove(self._named(old, "bad"))
            where = (
                "dropped, for newer ones are kept" if generation in dropped else f"kept as {aside}"
            )
        except OSError as error:  # the older file counts, not this one's place
            where = f"it stays where it is: {error.strerror}"
        line = f"CHECKPOINT_REJECTED {name} {reason}; {where}"
        self.rejections = [*self.rejections[1 - KEPT :], line]
        self._report(line)

    # --- names ---

    def _generations(self, directory: PrivateDirectory, kind: str = "ckpt") -> list[int]:
        """Return the numbers of our files of that kind, oldest first."""
        matches = map(self._file.fullmatch, directory.names())
        return sorted(int(match[1]) for match in matches if match and match[2] == kind)

    def _named(self, generation: int, kind: str = "ckpt") -> str:
        return f"{self.component_id}.{generation}.{kind}"
