"""The configuration for another home, against supervisord's own reading of it."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from mesh.cli.failures import NOT_RUNNING, TIMEOUT, Failure
from mesh.cli.orphans import end_orphans, holder
from mesh.cli.supervision import (
    PLAIN_CONF,
    SOCKET_BYTES_MAX,
    Supervisor,
    alive,
    default_nodes,
    wait_gone,
)
from mesh.runtime.settings import ROOT, Paths, load_paths

ELEVEN = 11


def paths_of(home: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("GENESIS_HOME", str(home))
    return load_paths()


@pytest.fixture
def supervisor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    return Supervisor(paths_of(tmp_path, monkeypatch))


def read_by_supervisord(conf: Path) -> ServerOptions:
    options = ServerOptions()
    options.realize(["-c", str(conf)])
    return options


def test_there_are_eleven_nodes() -> None:
    assert len(default_nodes()) == ELEVEN
    assert {"coordinator", "strategy.ema", "market_data"} <= set(default_nodes())


def test_the_checkout_uses_its_own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENESIS_HOME", raising=False)
    supervisor = Supervisor(load_paths())
    assert supervisor.configuration(auto_restart=True) == PLAIN_CONF
    assert supervisor.derived_conf != PLAIN_CONF


@pytest.mark.filterwarnings("ignore")  # supervisord's own, about its imports and its user
def test_another_home_keeps_all_it_writes_there(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.paths.logs.mkdir()
    conf = supervisor.configuration(auto_restart=True)
    options = read_by_supervisord(conf)
    programs = [
        program for group in options.process_group_configs for program in group.process_configs
    ]
    assert conf == tmp_path / "supervisord.conf"
    assert {program.name for program in programs} == set(default_nodes())
    assert {program.directory for program in programs} == {str(ROOT)}
    assert {Path(program.stdout_logfile).parent for program in programs} == {tmp_path / "logs"}
    assert options.serverurl == f"unix://{supervisor.socket}"
    assert options.pidfile.startswith(str(tmp_path))
    assert all(program.autorestart for program in programs)


@pytest.mark.filterwarnings("ignore")  # supervisord's own, about its imports and its user
def test_no_auto_restart_reaches_every_program(supervisor: Supervisor) -> None:
    supervisor.paths.logs.mkdir()
    options = read_by_supervisord(supervisor.configuration(auto_restart=False))
    programs = [
        program for group in options.process_group_configs for program in group.process_configs
    ]
    assert not any(program.autorestart for program in programs)


def test_a_percent_sign_in_the_home_is_no_expansion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "100%(here)s"
    supervisor = Supervisor(paths_of(home, monkeypatch))
    text = supervisor.configuration(auto_restart=True).read_text()
    assert "100%%(here)s/logs/%(program_name)s.out" in text


def test_a_deep_home_gets_a_socket_where_paths_are_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(paths_of(tmp_path / ("d" * 100), monkeypatch))
    assert len(str(supervisor.socket)) <= SOCKET_BYTES_MAX


def test_without_supervisord_nothing_runs(supervisor: Supervisor) -> None:
    assert supervisor.pid() == 0
    with pytest.raises(Failure, match="genesis up") as caught:
        supervisor.kill("risk")
    assert caught.value.exit_code == NOT_RUNNING


def test_clean_leaves_no_socket_lock_or_record(supervisor: Supervisor) -> None:
    (supervisor.paths.run / "genesis" / "nodes").mkdir(parents=True)
    for path in (supervisor.socket, supervisor.paths.run / "genesis" / "risk.lock"):
        path.touch()
    supervisor.clean()
    assert not supervisor.socket.exists()
    assert not supervisor.paths.run.exists()


def test_an_ended_process_is_gone_even_before_its_parent_looks() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert alive(child.pid)
    with pytest.raises(Failure) as caught:
        wait_gone({child.pid}, 0.0)
    assert caught.value.exit_code == TIMEOUT
    child.communicate(b"\n")
    assert not alive(child.pid)


def test_the_holder_of_a_lock_is_known_and_a_free_lock_has_none(tmp_path: Path) -> None:
    lock = tmp_path / "risk.lock"
    lock.write_text(f"{os.getpid()}\n")
    assert holder(lock) == 0
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder(lock) == os.getpid()


def test_a_node_without_supervisord_is_ended(supervisor: Supervisor) -> None:
    supervisor.paths.run.mkdir()
    lock = supervisor.paths.run / "risk.lock"
    code = (
        "import fcntl, os, sys, signal\n"
        "file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX)\n"
        "file.write(str(os.getpid())); file.flush(); print(flush=True); signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(lock)], stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        node.stdout.readline()
        assert end_orphans(supervisor.paths) == {node.pid}
    assert node.returncode != 0
    assert end_orphans(supervisor.paths) == set()
