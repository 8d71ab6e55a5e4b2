"""The command line and a whole mesh: the JSON contracts, exit codes, and nothing left behind."""

import gzip
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.meshes import COMMAND, Mesh, free_port

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(150),  # eleven processes start and drain on a small machine
]
ELEVEN = 11


@pytest.fixture
def idle(tmp_path: Path) -> Mesh:
    return Mesh(tmp_path)


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    mesh = Mesh(tmp_path_factory.mktemp("m"))
    try:
        started = mesh.json("up", "--detach")
        assert started["nodes"] == ELEVEN
        assert started["ready_s"] <= 30
        assert f"{mesh.environment['API_PORT']}/#token=" in started["dashboard"]
        yield mesh
    finally:
        mesh.run("down")


@pytest.mark.parametrize(
    "words",
    [
        *[["down"], ["ps"], ["status"], ["kill", "risk"], ["tail", "md."], ["orders"]],
        ["trace", "ema-1-1"],
    ],
)
def test_without_a_mesh_the_exit_code_is_3(idle: Mesh, words: list[str]) -> None:
    done = idle.run(*words)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "genesis: the mesh is not running; start it with `genesis up`\n"


def refused(idle: Mesh, words: list[str], **more: str) -> str:
    done = idle.run("up", "--detach", *words, **more)
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
    assert idle.processes() == []
    assert idle.leftovers() == []
    return done.stderr


def test_a_busy_port_is_named(idle: Mesh) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert f"port {port}" in refused(idle, [], API_PORT=port)


def test_a_corrupt_capture_is_named(idle: Mesh) -> None:
    (idle.home / "bad.gz").write_bytes(gzip.compress(b"1 {}\n")[:12])
    assert "bad.gz" in refused(idle, ["--source", "replay", "bad.gz"])


def test_a_database_that_does_not_answer_is_named_without_its_password(idle: Mesh) -> None:
    port = free_port()
    line = refused(idle, [], DATABASE_URL=f"postgresql://u:hidden@127.0.0.1:{port}/x")
    assert f"127.0.0.1:{port}" in line
    assert "hidden" not in line


def test_an_unknown_key_of_a_node_is_named(idle: Mesh) -> None:
    assert "bogus" in refused(idle, [], GENESIS__RISK__BOGUS="1")


def test_ps_shows_eleven_nodes_up(mesh: Mesh) -> None:
    answer = mesh.json("ps")
    assert answer["mode"] == "NORMAL"
    assert [node["state"] for node in answer["nodes"]] == ["UP"] * ELEVEN
    assert set(answer["nodes"][0]) >= {"node", "epoch", "pid", "heartbeat_age_ms", "restarts"}
    table = mesh.run("ps").stdout
    assert all(node["node"] in table for node in answer["nodes"])


def test_status_is_one_line(mesh: Mesh) -> None:
    assert mesh.json("status")["up"] == ELEVEN
    assert mesh.run("status").stdout.startswith("NORMAL, 11 of 11 nodes up; http://")


def test_a_second_up_leaves_the_first_alone(mesh: Mesh) -> None:
    done = mesh.run("up", "--detach")
    assert done.returncode == 1
    assert "runs already" in done.stderr
    assert mesh.json("status")["up"] == ELEVEN


def test_tail_prints_events_as_json_lines(mesh: Mesh) -> None:
    done = mesh.run("tail", "md.quote.", "--count", "3")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr
    assert [line["topic"].startswith("md.quote.") for line in lines] == [True] * 3
    assert lines[0]["node"] == "market_data"


@pytest.mark.parametrize("verb", ["orders", "fills", "positions", "balances"])
def test_lists_are_pages(mesh: Mesh, verb: str) -> None:
    answer = mesh.json(verb, "--limit", "5")
    assert set(answer) == {"items", "next"}
    assert mesh.run(verb).returncode == 0


def test_the_mode_is_set_and_shown(mesh: Mesh) -> None:
    before = mesh.json("mode")
    assert mesh.json("mode", "safe", "--reason", "a look")["mode"] == "SAFE"
    assert mesh.run("mode").stdout == "SAFE\n"
    mesh.json("mode", "normal")
    assert mesh.json("mode")["mode_epoch"] > before["mode_epoch"]


def test_call_reaches_a_node_and_tells_of_one_that_is_not_there(mesh: Mesh) -> None:
    done = mesh.run("call", "market_data", "market_data.instruments", "null")
    assert json.loads(done.stdout), done.stderr
    assert mesh.run("call", "market_data", "no.such", "null").returncode == 7


def test_restart_gives_a_node_a_new_process(mesh: Mesh) -> None:
    before = {node["node"]: node["pid"] for node in mesh.json("ps")["nodes"]}
    after = mesh.json("restart", "notification")
    assert after["pid"] not in (0, before["notification"])


def test_kill_tells_the_pid_and_an_unknown_node_is_7(mesh: Mesh) -> None:
    pids = {node["node"]: node["pid"] for node in mesh.json("ps")["nodes"]}
    assert mesh.json("kill", "strategy.ema")["pid"] == pids["strategy.ema"]
    assert mesh.run("kill", "nobody").returncode == 7


def test_a_mesh_stopped_in_emergency_starts_in_emergency(mesh: Mesh) -> None:
    mesh.json("mode", "emergency")
    mesh.json("down")
    again = mesh.run("up", "--detach")
    assert again.returncode == 0, again.stderr
    assert "EMERGENCY" in again.stdout
    assert mesh.json("mode", "normal")["mode"] == "NORMAL"


def test_down_leaves_no_process_socket_or_lock(mesh: Mesh) -> None:
    assert mesh.json("down") == {"stopped": True}
    assert mesh.processes() == []
    assert mesh.leftovers() == []
    assert mesh.run("down").returncode == 3


def test_ctrl_c_ends_a_mesh_in_the_foreground(idle: Mesh) -> None:
    with subprocess.Popen(
        [*COMMAND, "up"],
        cwd=idle.home,
        env=idle.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as up:
        assert up.stdout is not None
        assert up.stdout.readline().startswith("11 nodes up, NORMAL"), up.stderr
        assert "#token=" in up.stdout.readline()
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=90)
    assert up.returncode == 0
    assert idle.processes() == []
    assert idle.leftovers() == []
