"""What must hold before a mesh starts: settings, ports, captures, database. Each fails in a line.

Never here: starting, repairs, the settings of a node (those it checks itself).
"""

import gzip
import math
import os
import socket
import struct
import zlib
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from mesh.cli.failures import CONFIGURATION, Failure
from mesh.runtime.settings import Paths, load_toml, section_of

DATABASE_S = 3.0
POSTGRES_PORT = 5432
SSL_REQUEST = struct.pack("!II", 8, 80877103)  # every PostgreSQL answers it with one byte
SAMPLE_BYTES = 65_536
LISTENERS = (("api", "API_PORT"), ("gateway", "WS_PORT"))


def listeners(paths: Paths) -> dict[str, tuple[str, int]]:
    """Return host and port of the nodes that people connect to. Raises ConfigError, Failure."""
    config = load_toml(paths)
    found: dict[str, tuple[str, int]] = {}
    for section, variable in LISTENERS:
        table = section_of(config, section)
        found[section] = (str(table["host"]), port_number(str(table["port"]), variable))
    return found


def database_url(paths: Paths) -> str:
    """Return the address of the recorder's PostgreSQL, empty where it keeps a file."""
    return str(load_toml(paths).get("recorder", {}).get("database_url") or "")


def port_number(text: str, variable: str) -> int:
    """Return a TCP port from its digits."""
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65_536):
        raise Failure(CONFIGURATION, f"{variable}={text} is no port; choose one of 1 to 65535")
    return int(text)


def check_ports(addresses: dict[str, tuple[str, int]]) -> None:
    """Fail if an address is taken, or two nodes want the same."""
    if len(set(addresses.values())) < len(addresses):
        raise Failure(CONFIGURATION, "API_PORT and WS_PORT are the same; change one")
    for section, variable in LISTENERS:
        check_port(*addresses[section], variable)


def check_port(host: str, port: int, variable: str) -> None:
    """Fail if *host*:*port* cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the nodes do
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            reason = error.strerror or str(error)
            raise Failure(
                CONFIGURATION,
                f"port {port} on {host} is not free ({reason}); choose another with {variable}",
            ) from error


def check_captures(files: Iterable[Path]) -> None:
    """Fail if a capture cannot be read: absent, not ours to read, not gzip, cut in its head."""
    for file in files:
        try:
            sample = gzip_head(file)
        except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
            reason = getattr(error, "strerror", None) or "not an intact gzip file"
            raise Failure(CONFIGURATION, f"capture {file}: {reason}; give another file") from error
        if not sample:
            raise Failure(CONFIGURATION, f"capture {file}: it is empty; give another file")


def gzip_head(file: Path) -> bytes:
    """Return the first bytes of what *file* holds. Raises OSError, EOFError, zlib.error."""
    with gzip.open(file) as stream:
        return stream.read(SAMPLE_BYTES)


def check_speed(speed: float | None) -> None:
    """Fail unless *speed* is a factor of real time; 0 is as fast as possible."""
    if speed is not None and not (math.isfinite(speed) and speed >= 0):
        raise Failure(CONFIGURATION, f"speed {speed} is not a factor of time; give 0 or more")


def check_database(url: str) -> None:
    """Fail if no PostgreSQL answers at *url*. The line names host and port, nothing else."""
    try:
        addresses = database_addresses(urlsplit(url))
    except ValueError:
        addresses = []
    if not addresses:
        raise Failure(
            CONFIGURATION,
            "DATABASE_URL is no PostgreSQL address; write postgresql://user@host:port/database",
        )
    if not any(answers(host, port) for host, port in addresses):
        host, port = addresses[0]
        raise Failure(
            CONFIGURATION,
            f"DATABASE_URL: no PostgreSQL answers at {host}:{port} within {DATABASE_S:.0f} s;"
            " start it or unset DATABASE_URL",
        )


def database_addresses(url: SplitResult) -> list[tuple[str, int]]:
    """Return host and port of every server of *url*; a host with a slash is a directory."""
    if url.scheme not in ("postgresql", "postgres"):
        return []
    query = parse_qs(url.query)
    named = query.get("host", [""])[0]
    hosts = named or url.netloc.rpartition("@")[2] or "localhost"
    default = int(query.get("port", [str(POSTGRES_PORT)])[0])
    return [host_and_port(item, default) for item in hosts.split(",")]


def host_and_port(text: str, default: int) -> tuple[str, int]:
    """Return the parts of `host:port`, `[v6]:port` or `host`. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]") or "/" in text:
        host, port = text, ""
    return unquote(host).strip("[]") or "localhost", int(port) if port else default


def answers(host: str, port: int) -> bool:
    """Return whether a PostgreSQL answers there in time; one that only accepts does not."""
    try:
        with dial(host, port) as connection:
            connection.sendall(SSL_REQUEST)
            return connection.recv(1) in (b"S", b"N")
    except OSError:
        return False


def dial(host: str, port: int) -> socket.socket:
    """Return a connection to a host, or to the socket in a directory. Raises OSError."""
    if not host.startswith("/"):
        return socket.create_connection((host, port), timeout=DATABASE_S)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DATABASE_S)
    try:
        connection.connect(os.path.join(host, f".s.PGSQL.{port}"))
    except OSError:
        connection.close()
        raise
    return connection
