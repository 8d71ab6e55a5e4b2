"""The supervisord of one mesh: its configuration, starting, asking and stopping it.

Never here: verbs, what a node does, the readiness of the mesh.
"""

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mesh.cli.failures import ERROR, NOT_FOUND, NOT_RUNNING, TIMEOUT, Failure
from mesh.clock import monotonic_s
from mesh.runtime.settings import ROOT as CHECKOUT
from mesh.runtime.settings import Paths, make_private

PLAIN_CONF = CHECKOUT / "supervisord.conf"
SOCKET_BYTES_MAX = 107 - len(".4194304")  # AF_UNIX, less the pid supervisord binds with first
ASK_S = 5.0
RESTART_S = 60.0  # a node drains for 12 s, is killed after 20 s, then starts
STOP_S = 240.0  # all nodes one after the other, none willing
PROGRAM = re.compile(r"^\[program:([^\]]+)\]", re.MULTILINE)
BAD_NAME = 10  # supervisord's fault number for a program it does not have
AUTORESTART = re.compile(r"^autorestart=.*$", re.MULTILINE)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket, with a time-out: supervisor's own transport waits for ever."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        """Connect to the socket file."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class UnixTransport(xmlrpc.client.Transport):
    """XML-RPC over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__()
        self.path, self.timeout = path, timeout

    def make_connection(self, host: Any) -> UnixConnection:
        """Return a new connection, kept where close() finds it."""
        connection = UnixConnection(self.path, self.timeout)
        self._connection = host, connection
        return connection


class Supervisor:
    """The supervisord of the mesh at *paths*, running or not."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.socket = socket_path(paths)

    def ask(self, method: str, *args: object, wait_s: float = ASK_S) -> Any:
        """Return the answer of supervisord. Raises Failure if none runs or it refuses."""
        transport = UnixTransport(str(self.socket), wait_s)
        proxy = xmlrpc.client.ServerProxy("http://localhost/RPC2", transport, allow_none=True)
        try:
            return getattr(proxy.supervisor, method)(*args)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == BAD_NAME:
                name = args[0] if args else method
                raise Failure(
                    NOT_FOUND, f"no node {name!r} here; `genesis ps` lists the nodes"
                ) from fault
            raise Failure(ERROR, f"supervisord refused {method}: {fault.faultString}") from fault
        except TimeoutError as error:
            raise Failure(TIMEOUT, f"supervisord did not answer in {wait_s:.0f} s") from error
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise Failure(
                NOT_RUNNING, "the mesh is not running; start it with `genesis up`"
            ) from error
        finally:
            transport.close()

    def pid(self) -> int:
        """Return the pid of supervisord, 0 if it does not run."""
        try:
            return int(self.ask("getPID"))
        except Failure as failure:
            if failure.exit_code == NOT_RUNNING:
                return 0
            raise

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return what supervisord knows of each program: statename, pid, spawnerr…"""
        return {str(info["name"]): info for info in self.ask("getAllProcessInfo")}

    def kill(self, node: str) -> int:
        """SIGKILL *node*; return the pid it had."""
        pid = int(self.ask("getProcessInfo", node)["pid"])
        if not pid:
            raise Failure(ERROR, f"{node} has no process now; `genesis ps` shows its state")
        self.ask("signalProcess", node, "KILL")
        return pid

    def restart(self, node: str) -> int:
        """Stop *node* in good order and start it; return its new pid."""
        if self.ask("getProcessInfo", node)["pid"]:
            self.ask("stopProcess", node, wait_s=RESTART_S)
        self.ask("startProcess", node, wait_s=RESTART_S)
        return int(self.ask("getProcessInfo", node)["pid"])

    def start(
        self, environment: Mapping[str, str], *, auto_restart: bool = True
    ) -> "subprocess.Popen[bytes]":
        """Start supervisord, away from this terminal's signals; its words go to the logs."""
        self.paths.logs.mkdir(parents=True, exist_ok=True)
        make_private(self.paths.run)
        bin_dir = Path(sys.executable).parent  # where supervisord, python and genesis are
        words = [str(bin_dir / "supervisord"), "-c", str(self.configuration(auto_restart))]
        if os.geteuid() == 0:
            words += ["-u", "root"]  # says that root is meant
        path = os.pathsep.join(filter(None, (str(bin_dir), environment.get("PATH"))))
        with (self.paths.logs / "supervisord.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  # our own supervisord
                words,
                cwd=CHECKOUT,
                env={**environment, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def configuration(self, auto_restart: bool) -> Path:
        """Return the configuration to start with; written first unless the plain one serves."""
        if auto_restart and self.socket == CHECKOUT / ".supervisor.sock":
            return PLAIN_CONF
        target = self.derived_conf
        target.parent.mkdir(parents=True, exist_ok=True)
        text = derived(PLAIN_CONF.read_text("utf-8"), self.paths, self.socket, auto_restart)
        target.write_text(text, "utf-8")
        return target

    @property
    def derived_conf(self) -> Path:
        """Where a configuration of our own goes: never over the plain one."""
        home = self.paths.home
        return (self.paths.run if home == CHECKOUT else home) / "supervisord.conf"

    def stop(self) -> None:
        """Shut supervisord and all its programs down; return when they are gone."""
        pids = {self.pid(), *(int(info["pid"]) for info in self.processes().values())} - {0}
        self.ask("shutdown")
        wait_gone(pids, STOP_S)

    def clean(self) -> None:
        """Remove what a stopped mesh leaves: sockets, locks, records, pid file."""
        for path in (self.socket, self.socket.with_suffix(".pid")):
            path.unlink(missing_ok=True)
        if self.derived_conf != PLAIN_CONF:
            self.derived_conf.unlink(missing_ok=True)
        if self.paths.run.is_dir() and not self.paths.run.is_symlink():
            shutil.rmtree(self.paths.run)


def socket_path(paths: Paths) -> Path:
    """Return where supervisord listens: at home, or where paths are short if home is too deep."""
    near = paths.home / ".supervisor.sock"
    if len(os.fsencode(near)) <= SOCKET_BYTES_MAX:
        return near
    return paths.run / "supervisor.sock"


def derived(text: str, paths: Paths, sock: Path, auto_restart: bool) -> str:
    """Return the plain configuration for a mesh whose home is elsewhere."""

    places = {  # the longer before what it begins with; all in one pass, homes are any text
        "%(here)s/.supervisor.sock": sock,
        "%(here)s/.supervisor.pid": sock.with_suffix(".pid"),
        "%(here)s/logs": paths.logs,
        "%(here)s": CHECKOUT,
        "config/nodes.d/*.conf": paths.home / "config" / "nodes.d" / "*.conf",
    }
    pattern = re.compile("|".join(map(re.escape, places)))
    # supervisord expands what follows a %
    text = pattern.sub(lambda found: str(places[found[0]]).replace("%", "%%"), text)
    return text if auto_restart else AUTORESTART.sub("autorestart=false", text)


def default_nodes() -> list[str]:
    """Return the names of the programs every mesh has, in the order of the configuration."""
    return PROGRAM.findall(PLAIN_CONF.read_text("utf-8"))


def alive(pid: int) -> bool:
    """Return whether *pid* runs; one that ended and waits for its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):  # where there is no /proc the signal decides
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in (
            "Z",
            "X",
        )
    return True


def wait_gone(pids: set[int], patience_s: float) -> None:
    """Return when none of *pids* runs. Raises Failure after *patience_s*."""
    ends = monotonic_s() + patience_s
    while left := sorted(pid for pid in pids if alive(pid)):
        if monotonic_s() > ends:
            raise Failure(TIMEOUT, f"still running after {patience_s:.0f} s: pids {left}")
        time.sleep(0.05)
