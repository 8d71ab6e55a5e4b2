"""Directory: the record files by which nodes of one host find each other without anybody.

Never here: liveness; a file may outlive its node.
"""

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from mesh.errors import ConfigError
from mesh.protocol.control import Record
from mesh.runtime.settings import make_private
from mesh.transport.sockets import IPC_PATH_MAX_BYTES

PLANES: Final = "edr"  # events, durable events, requests
_MACHINE: Final = Path("/etc/machine-id")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_NETWORK: Final = Path("/proc/self/ns/net")


def host_id() -> str:
    """Return what tells whether two processes can reach each other's ipc paths: machine, boot
    and network namespace."""
    parts = []
    for path in (_MACHINE, _BOOT):
        with suppress(OSError):
            parts.append(path.read_text().strip())
    with suppress(OSError):
        parts.append(str(_NETWORK.stat().st_ino))
    return f"{zlib.crc32(' '.join(parts).encode()):08x}"


class Directory:
    """Records under <run>/<cluster>/nodes; sockets and locks lie beside them."""

    def __init__(self, run: Path, cluster: str) -> None:
        self._run = run
        self.base = run / cluster
        self._nodes = self.base / "nodes"
        self._cache: dict[Path, tuple[int, Record]] = {}

    def make(self) -> None:
        """Make the directories, closed to others. Raises ConfigError if they are not ours."""
        for path in (self._run, self.base, self._nodes):
            make_private(path)

    def leave(self) -> None:
        """Remove the directories if nobody else uses them: the last to go turns off the light."""
        with suppress(OSError):  # somebody's files are there
            for path in (self._nodes, self.base, self._run):
                path.rmdir()

    def record_of(self, node: str) -> Path:
        """Return where the record of *node* lies."""
        return self._nodes / f"{node}.json"

    def endpoint(self, node: str, plane: str) -> str:
        """Return the fixed ipc address of a node's plane. Raises ConfigError if too long."""
        path = self.base / f"{node}.{plane}"
        if len(os.fsencode(path)) > IPC_PATH_MAX_BYTES:
            raise ConfigError(f"socket path too long: {path}; choose a shorter GENESIS_HOME")
        return f"ipc://{path}"

    def publish(self, record: Record) -> None:
        """Write our record; readers see the old one or the new one, never a part."""
        self.make()  # whoever left last may have removed it
        path = self.record_of(record.node)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(record))
        fresh.replace(path)

    def withdraw(self, node: str) -> None:
        """Remove our record and our socket files; only the holder of the run lock may."""
        self.record_of(node).unlink(missing_ok=True)
        for plane in PLANES:
            (self.base / f"{node}.{plane}").unlink(missing_ok=True)

    def records(self) -> dict[str, Record]:
        """Return every record that can be read, by node; unreadable files are passed over."""
        found: dict[Path, tuple[int, Record]] = {}
        for path in self._nodes.glob("*.json"):
            try:
                stamp = path.stat().st_mtime_ns
                cached = self._cache.get(path)
                if cached is not None and cached[0] == stamp:
                    found[path] = cached
                else:
                    found[path] = (stamp, msgspec.json.decode(path.read_bytes(), type=Record))
            except (OSError, msgspec.DecodeError):
                continue  # being replaced or not ours: the next scan sees
        self._cache = found
        return {record.node: record for _, record in found.values()}
