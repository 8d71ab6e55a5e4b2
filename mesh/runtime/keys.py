"""Keys: a secret file per node, and authorized.toml, which says whose public keys are good.

<home>/keys/<node>.secret    the node's CURVE secret, 0600
<home>/keys/<node>.next      the one it takes at its next start, while its key is rotated
<home>/keys/authorized.toml  node to public keys (current, next) and role; the file to review

A pair is used only while its public key is authorized, so an interrupted rotation harms nobody.

Never here: sockets, printing; secrets in texts of any kind.
"""

import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from mesh.errors import ConfigError, Conflict, NotFound
from mesh.protocol.access import ACCESS_FILE, Access
from mesh.runtime.identity import check_name
from mesh.runtime.settings import Paths, make_private
from mesh.storage.files import write_durably
from mesh.transport.sockets import CurveKeys, raw_key

AUTHORIZED_FILE: Final = "authorized.toml"
CURRENT: Final = ".secret"
NEXT: Final = ".next"
FILE_MAX_BYTES: Final = 1024 * 1024
# Both pairs of the manual page zmq_curve(7): whoever reads it has their secrets.
PUBLISHED: Final = frozenset(
    {
        b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7",
        b"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID",
    }
)


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one node is known by; keys in Z85, next is empty outside a rotation."""

    current: str
    next: str = ""
    role: str = ""

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the keys that are good now."""
        return (self.current, self.next) if self.next else (self.current,)


class Authorized(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of authorized.toml."""

    nodes: dict[str, Entry] = {}

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Return the content of the file. Raises ConfigError naming file and fault."""
        try:
            found = msgspec.convert(tomllib.loads(text), cls)
        except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
            raise ConfigError(f"{source}: {error}") from None
        try:
            found.by_key()
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        return found

    def format(self) -> str:
        """Return the text of the file. Z85 and names hold nothing that TOML would escape."""
        lines = ["# Whose CURVE keys are good. Running nodes see a change within a second."]
        for node, entry in sorted(self.nodes.items()):
            lines += ["", f'[nodes."{node}"]']
            lines += [f'{name} = "{value}"' for name, value in _items(entry) if value]
        return "\n".join(lines) + "\n"

    def by_key(self) -> dict[bytes, str]:
        """Return node by raw public key. Raises ConfigError for a bad, public or doubled key."""
        found: dict[bytes, str] = {}
        for node, entry in self.nodes.items():
            check_name(node)
            for key in entry.keys:
                raw = _checked(key.encode(), f"node {node}")
                if raw in found:
                    raise ConfigError(f"node {node}: the key of {found[raw]} again")
                found[raw] = node
        return found

    def replaced(self, node: str, entry: Entry) -> "Authorized":
        """Return this with *entry* for *node*."""
        return Authorized({**self.nodes, node: entry})


def _items(entry: Entry) -> Iterable[tuple[str, str]]:
    return (("role", entry.role), ("current", entry.current), ("next", entry.next))


@dataclass(slots=True)
class Keyring:
    """The keys as one node sees them: its own pair, if it has one, and whose others are.

    Call :meth:`refresh` every second. loads: how often the file came into force; behind a new
    number roles may have changed. fault: why the file on disk is not in force.
    """

    node: str
    pair: CurveKeys | None
    loads: int = 0
    fault: str = ""
    _path: Path = Path()
    _seen: tuple[int, ...] = ()
    _authorized: Authorized = field(default_factory=Authorized)
    _by_key: dict[bytes, str] = field(default_factory=dict)

    @property
    def public(self) -> str:
        """Return the public half of our pair in Z85, empty without one."""
        return "" if self.pair is None else self.pair.public.decode()

    @property
    def roles(self) -> Mapping[str, str]:
        """Return the roles that the file assigns, by node."""
        return {node: entry.role for node, entry in self._authorized.nodes.items() if entry.role}

    def node_of(self, key: bytes) -> str | None:
        """Return whose raw public *key* is, None if it is not authorized."""
        return self._by_key.get(key)

    def server_keys(self, node: str) -> tuple[bytes, ...]:
        """Return the Z85 keys by which *node* may answer; two while its key is rotated."""
        entry = self._authorized.nodes.get(node)
        return () if entry is None else tuple(key.encode() for key in entry.keys)

    def refresh(self) -> bool:
        """Take a changed file into force; True if a key is no longer good: cut its sessions.

        A file that is missing or damaged, as while it is edited, changes nothing but fault.
        """
        try:
            seen = _stamp(self._path)
            if seen == self._seen:
                return False
            authorized = read_authorized(self._path)
        except ConfigError as error:
            self.fault = str(error)
            return False
        before, self._by_key = self._by_key, authorized.by_key()
        self._authorized, self._seen, self.fault = authorized, seen, ""
        self.loads += 1
        return any(self._by_key.get(key) != node for key, node in before.items())


def load_keys(paths: Paths, node: str) -> Keyring | None:
    """Return the keys as *node* sees them, None where `genesis keys init` never ran.

    Raises ConfigError, one line without a secret, for files that others could have read or
    changed, for keys that are none, public ones, and a pair that is not authorized.
    """
    directory = paths.home / "keys"
    if not directory.is_symlink() and not directory.exists():
        return None
    _check_directory(directory)
    ring = Keyring(node, None, _path=directory / AUTHORIZED_FILE)
    ring.refresh()
    if ring.fault:
        raise ConfigError(ring.fault)
    ring.pair = _own_pair(directory, node, ring)
    return ring


def load_access(paths: Paths, ring: Keyring | None = None) -> Access:
    """Return who may do what, with the roles that *ring* assigns. Raises ConfigError."""
    path = paths.config / Path(ACCESS_FILE).name
    try:
        access = Access.parse(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None
    return access if ring is None else access.assign(ring.roles)


def read_authorized(path: Path) -> Authorized:
    """Return who is authorized. Raises ConfigError."""
    return Authorized.parse(_read(path, others=0o022).decode("utf-8", "replace"), str(path))


class KeyStore:
    """The key files, for whoever makes and changes them; one at a time."""

    def __init__(self, paths: Paths) -> None:
        self.directory = paths.home / "keys"
        self._path = self.directory / AUTHORIZED_FILE

    def create(self, roles: Mapping[str, str]) -> Authorized:
        """Make a pair per node of *roles*. Raises Conflict where keys are already."""
        make_private(self.directory)
        if any(self.directory.iterdir()):
            raise Conflict(f"{self.directory} is not empty; keys are never overwritten")
        return self._write(
            Authorized(
                {node: Entry(self._make(node, CURRENT), role=role) for node, role in roles.items()}
            )
        )

    def add(self, node: str, role: str) -> Entry:
        """Make a pair for one more *node*. Raises Conflict if it has one."""
        known = self.authorized()
        if check_name(node) in known.nodes or self._file(node, CURRENT).exists():
            raise Conflict(f"node {node} has a key; `genesis keys rotate {node}` makes a new one")
        return self._put(known, node, Entry(self._make(node, CURRENT), role=role))

    def rotate(self, node: str) -> Entry:
        """Make the pair that *node* takes at its next start; both are good until finish()."""
        known = self.authorized()
        entry = _entry(known, node)
        if entry.next:
            raise Conflict(
                f"node {node} is being rotated: restart it, then `genesis keys rotate {node} "
                "--finish`"
            )
        entry = msgspec.structs.replace(entry, next=self._make(node, NEXT))
        return self._put(known, node, entry)

    def finish(self, node: str) -> Entry:
        """Drop the old key of *node*: who still uses it is out within a second."""
        known = self.authorized()
        entry = _entry(known, node)
        if not entry.next:
            raise Conflict(f"node {node} is not being rotated; begin with `genesis keys rotate`")
        entry = self._put(known, node, Entry(entry.next, role=entry.role))
        fresh = self._file(node, NEXT)
        if fresh.exists():  # absent where the node lives on another host
            fresh.replace(self._file(node, CURRENT))
        return entry

    def revoke(self, node: str) -> None:
        """Take every key of *node* out of force and remove its files."""
        known = self.authorized()
        _entry(known, node)
        self._write(Authorized({name: e for name, e in known.nodes.items() if name != node}))
        for suffix in (CURRENT, NEXT):
            self._file(node, suffix).unlink(missing_ok=True)

    def authorized(self) -> Authorized:
        """Return who is authorized. Raises ConfigError."""
        if not self._path.exists():
            raise ConfigError(f"{self._path} is missing; `genesis keys init` makes it")
        _check_directory(self.directory)
        return read_authorized(self._path)

    def _put(self, known: Authorized, node: str, entry: Entry) -> Entry:
        self._write(known.replaced(node, entry))
        return entry

    def _write(self, authorized: Authorized) -> Authorized:
        authorized.by_key()
        write_durably(self._path, authorized.format().encode())
        return authorized

    def _make(self, node: str, suffix: str) -> str:
        pair = CurveKeys.make()
        write_durably(self._file(node, suffix), pair.secret + b"\n")
        return pair.public.decode()

    def _file(self, node: str, suffix: str) -> Path:
        return self.directory / f"{node}{suffix}"


def _entry(known: Authorized, node: str) -> Entry:
    if node not in known.nodes:
        raise NotFound(f"node {node!r} has no key; `genesis keys add` makes one")
    return known.nodes[node]


def _own_pair(directory: Path, node: str, ring: Keyring) -> CurveKeys | None:
    """Return the newest pair of *node* that is authorized; None if it never had one."""
    found = [
        path for suffix in (NEXT, CURRENT) if (path := directory / f"{node}{suffix}").exists()
    ]
    for path in found:
        secret = _read(path, others=0o077).strip()
        try:
            pair = CurveKeys.of(secret)
            raw = _checked(pair.public, "the key")
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if ring.node_of(raw) == node:
            return pair
    if found or ring.server_keys(node):
        where = directory / AUTHORIZED_FILE
        raise ConfigError(f"node {node}: no secret here belongs to its keys in {where}")
    return None


def _checked(key: bytes, where: str) -> bytes:
    """Return the raw form of a public *key*. Raises ConfigError."""
    if key in PUBLISHED:
        raise ConfigError(f"{where} is from the public documentation; make a new one")
    try:
        return raw_key(key)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _check_directory(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(f"{path} must be a directory of ours alone; chmod 0700")


def _read(path: Path, *, others: int) -> bytes:
    """Return a file of ours that lets others do none of *others*. Raises ConfigError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
            raise ConfigError(f"{path} is not a file of ours")
        if found.st_mode & others:
            raise ConfigError(f"{path} is open to others; chmod 0600, or make a new key")
        return file.read(FILE_MAX_BYTES)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    return found.st_mtime_ns, found.st_ino, found.st_size
