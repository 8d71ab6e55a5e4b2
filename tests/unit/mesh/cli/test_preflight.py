"""What is checked before a start, against real sockets and files."""

import gzip
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mesh.cli.failures import CONFIGURATION, Failure
from mesh.cli.preflight import (
    SSL_REQUEST,
    check_captures,
    check_database,
    check_port,
    check_ports,
    check_speed,
    database_addresses,
    port_number,
)


def listener() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(5)
    return server


def test_a_busy_port_names_the_port_and_the_variable() -> None:
    with listener() as server:
        port = server.getsockname()[1]
        with pytest.raises(Failure, match=rf"port {port} .* API_PORT") as caught:
            check_port("127.0.0.1", port, "API_PORT")
    assert caught.value.exit_code == CONFIGURATION
    check_port("127.0.0.1", port, "API_PORT")


def test_two_nodes_cannot_share_a_port() -> None:
    with pytest.raises(Failure, match="the same"):
        check_ports({"api": ("127.0.0.1", 5000), "gateway": ("127.0.0.1", 5000)})


@pytest.mark.parametrize("text", ["0", "65536", "-1", "http", "", "٣"])
def test_a_port_is_1_to_65535(text: str) -> None:
    with pytest.raises(Failure, match="WS_PORT"):
        port_number(text, "WS_PORT")


def test_an_intact_capture_passes(tmp_path: Path) -> None:
    capture = tmp_path / "a.gz"
    capture.write_bytes(gzip.compress(b'1 {"e":"trade"}\n'))
    check_captures([capture])
    assert capture.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"plain text", "not an intact gzip file"),
        (b"", "it is empty"),
        (gzip.compress(b"x" * 1_000, mtime=0)[:20], "not an intact gzip file"),
        (gzip.compress(b"", mtime=0), "it is empty"),
    ],
)
def test_a_bad_capture_is_named_with_the_reason(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    capture = tmp_path / "bad.gz"
    if content is not None:
        capture.write_bytes(content)
    with pytest.raises(Failure, match=rf"bad\.gz: {reason}") as caught:
        check_captures([capture])
    assert caught.value.exit_code == CONFIGURATION


@pytest.mark.parametrize("speed", [float("nan"), float("inf"), -1.0])
def test_a_speed_is_finite_and_not_negative(speed: float) -> None:
    with pytest.raises(Failure, match="speed"):
        check_speed(speed)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@db:6000/x", [("db", 6000)]),
        ("postgres://db/x", [("db", 5432)]),
        ("postgresql:///x", [("localhost", 5432)]),
        ("postgresql://u@[::1]:7000/x", [("::1", 7000)]),
        ("postgresql://a:1,b/x", [("a", 1), ("b", 5432)]),
        ("postgresql:///x?host=/run/pg&port=6000", [("/run/pg", 6000)]),
        ("postgresql://%2Frun%2Fpg/x", [("/run/pg", 5432)]),
        ("mysql://db/x", []),
    ],
)
def test_the_servers_of_a_database_url(url: str, expected: list[tuple[str, int]]) -> None:
    assert database_addresses(urlsplit(url)) == expected


def test_a_database_that_refuses_is_told_without_the_password() -> None:
    with listener() as server:
        port = server.getsockname()[1]
    with pytest.raises(Failure, match=f"127.0.0.1:{port}") as caught:
        check_database(f"postgresql://me:hidden@127.0.0.1:{port}/x")
    assert caught.value.exit_code == CONFIGURATION
    assert "hidden" not in caught.value.message


@pytest.mark.parametrize("url", ["postgresql://db:port/x", "genesis.db", "mysql://db/x"])
def test_what_is_no_database_url_is_refused(url: str) -> None:
    with pytest.raises(Failure, match="no PostgreSQL address"):
        check_database(url)


@pytest.mark.parametrize(("answer", "fine"), [(b"N", True), (b"HTTP/1.1 400\r\n", False)])
def test_a_listener_must_speak_postgresql(answer: bytes, fine: bool) -> None:
    asked: list[bytes] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            asked.append(connection.recv(64))
            connection.sendall(answer)

    with listener() as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        url = f"postgresql://127.0.0.1:{server.getsockname()[1]}/x"
        if fine:
            check_database(url)
        else:
            with pytest.raises(Failure, match="no PostgreSQL answers"):
                check_database(url)
        thread.join()
    assert asked == [SSL_REQUEST]
