"""Settings: TOML, then fragments, then environment, checked as one typed value.

The only reader of the environment and the only place that knows where things lie.

Never here: defaults of its own; they are in config/genesis.toml.
"""

import difflib
import os
import stat
import tempfile
import tomllib
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from mesh.errors import ConfigError
from mesh.runtime.logs import LEVELS

T = TypeVar("T")

ROOT: Final = Path(__file__).resolve().parents[2]
PREFIX: Final = "GENESIS__"
MAKE_TRIES: Final = 10
# The names that came with the project's first document; they win over the file.
ALIASES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "DATABASE_URL": (("recorder", "database_url"),),
    "API_PORT": (("api", "port"), ("gateway", "api_port")),
    "WS_PORT": (("gateway", "port"), ("api", "ws_port")),
    "LOG_LEVEL": (("logs", "level"),),
    "CHECKPOINT_DIR": (("paths", "checkpoints"),),
}
_SECRET_WORDS: Final = ("url", "token", "secret", "password", "channels")


class MeshSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every node needs to know of the mesh; see config/genesis.toml for units."""

    cluster: str
    heartbeat_ms: int
    register_ms: int
    start_s: float
    drain_s: float
    snail_s: float
    listen: str  # tcp://<address>:* for other hosts, empty for none
    advertise: str  # the host name or address to give them instead


class JournalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much of a durable log is kept for consumers that are behind or still to come."""

    max_bytes: int
    keep_s: float


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the log begins and when it turns over."""

    level: str
    rotate_bytes: int
    kept: int

    def __post_init__(self) -> None:
        if self.level.upper() not in LEVELS:
            raise ValueError(f"level {self.level!r} (LOG_LEVEL) is none of {' '.join(LEVELS)}")


@dataclass(frozen=True, slots=True)
class Paths:
    """Where one mesh keeps its things."""

    home: Path
    state: Path
    logs: Path
    run: Path
    checkpoints: Path
    config: Path


def load_paths() -> Paths:
    """Return the directories of this mesh: under GENESIS_HOME, else under the checkout."""
    home = Path(os.environ.get("GENESIS_HOME") or ROOT).resolve()
    checkpoints = Path(os.environ.get("CHECKPOINT_DIR") or "checkpoints")
    return Paths(
        home=home,
        state=home / "state",
        logs=home / "logs",
        run=run_directory(home),
        checkpoints=checkpoints if checkpoints.is_absolute() else home / checkpoints,
        config=ROOT / "config",
    )


def make_private(path: Path) -> Path:
    """Make directory *path* with mode 0700 and return it. Raises ConfigError if it is not ours.

    It may vanish meanwhile, with the last node that leaves: then it is made again.
    """
    for _ in range(MAKE_TRIES):
        try:
            return _made_private(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigError(
                f"directory {path}: {error.strerror}; choose another GENESIS_HOME"
            ) from None
    raise ConfigError(f"directory {path} vanishes again and again; see who removes it")


def _made_private(path: Path) -> Path:
    with suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise ConfigError(
            f"directory {path} is not ours: remove it or choose another GENESIS_HOME"
        )
    path.chmod(0o700)
    return path


def environment() -> dict[str, str]:
    """Return a copy of the environment."""
    return dict(os.environ)


def load_toml(paths: Paths) -> dict[str, Any]:
    """Return the merged configuration. Raises ConfigError naming file and fault."""
    merged: dict[str, Any] = {}
    fragments = sorted((paths.config / "nodes.d").glob("*.toml"))
    for file in (paths.config / "genesis.toml", *fragments):
        try:
            _merge(merged, tomllib.loads(file.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: {error}") from None
    for key, value in os.environ.items():
        if key.startswith(PREFIX):
            _set(merged, key[len(PREFIX) :].lower().split("__"), value, key)
        elif value:
            for path in ALIASES.get(key, ()):
                _set(merged, list(path), value, key)
    return merged


def load_section(paths: Paths, section: str, kind: type[T]) -> T:
    """Return [section] as *kind*. Raises ConfigError: one line, the nearest known key."""
    return convert(section_of(load_toml(paths), section), section, kind)


def validate_config(paths: Paths) -> None:
    """Check what can be checked without starting a node. Raises ConfigError, one line."""
    config = load_toml(paths)
    convert(section_of(config, "mesh"), "mesh", MeshSettings)
    convert(section_of(config, "logs"), "logs", LogSettings)
    convert(section_of(config, "journal"), "journal", JournalSettings)


def section_of(config: dict[str, Any], section: str) -> dict[str, Any]:
    """Return the table named by dotted *section*. Raises ConfigError if there is none."""
    table: Any = config
    for part in section.split("."):
        table = table.get(part) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        near = nearest(section, list(config))
        raise ConfigError(f"config: no section [{section}]{near}")
    return table


def convert(table: dict[str, Any], section: str, kind: type[T]) -> T:
    """Return *table* as *kind*; strings from the environment become what is asked for."""
    known = {field.encode_name for field in msgspec.structs.fields(kind)}  # type: ignore[arg-type]  # Structs only
    for key in table:
        if key not in known:
            raise ConfigError(
                f"config/genesis.toml: unknown key {key!r} in [{section}]{nearest(key, known)}"
            )
    try:
        return msgspec.convert(table, kind, strict=False)
    except Exception as error:  # noqa: BLE001  # msgspec wraps what __post_init__ raises; all are user's values
        raise ConfigError(f"config/genesis.toml: [{section}] {error}") from None


def nearest(key: str, known: "set[str] | list[str]") -> str:
    """Return '; did you mean …?' for the nearest known key, or nothing."""
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def redacted(config: dict[str, Any]) -> dict[str, Any]:
    """Return *config* with everything that may hold a secret replaced."""
    return {
        key: redacted(value)
        if isinstance(value, dict)
        else "***"
        if value and any(word in key for word in _SECRET_WORDS)
        else value
        for key, value in config.items()
    }


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _set(config: dict[str, Any], path: list[str], text: str, name: str) -> None:
    table = config
    for part in path[:-1]:
        table = table.setdefault(part, {})
    value: Any = text
    if text.startswith("["):
        try:
            value = msgspec.json.decode(text)
        except msgspec.DecodeError:
            raise ConfigError(f"environment {name}: not a JSON list: {text[:60]!r}") from None
    table[path[-1]] = value


def run_directory(home: Path) -> Path:
    """Return a short directory for sockets: an address holds 107 bytes and no more."""
    near = home / "run"
    if len(str(near)) <= 60:
        return near
    base = os.environ.get("XDG_RUNTIME_DIR")
    name = f"genesis-{os.getuid()}-{zlib.crc32(str(home).encode()):08x}"
    return Path(base or tempfile.gettempdir()) / name
