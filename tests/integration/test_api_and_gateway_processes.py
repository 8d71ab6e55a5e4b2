"""Real nodes as real processes: tokens from disk, mode over both doors, busy ports.

Never here: routes and sessions one by one.
"""

import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from mesh.clock import monotonic_s
from mesh.protocol.tokens import OPERATE, VIEW, Tokens

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(60)]  # processes start


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Home:
    """A mesh of its own: home, ports, tokens, processes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.api, self.ws = free_port(), free_port()
        self.processes: list[subprocess.Popen[str]] = []
        (home / "state").mkdir(parents=True)
        self.keep(Tokens().with_token(OPERATE, "run"))

    def keep(self, tokens: Tokens) -> None:
        (self.home / "state" / "tokens.json").write_text(tokens.format())

    def start(self, node: str) -> subprocess.Popen[str]:
        ports = {
            "API_PORT": str(self.api),
            "WS_PORT": str(self.ws),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", f"nodes.{node}"],
            cwd=ROOT,
            env={**os.environ, **ports, "GENESIS_HOME": str(self.home)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def request(self, method: str, path: str, token: str = "run", **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{self.api}{path}"
        return httpx.request(method, url, headers=headers, timeout=5, trust_env=False, **more)

    def wait(self, path: str, seconds: float = 20) -> httpx.Response:
        """Ask until *path* answers 200; a process that starts has no other way to tell."""
        deadline = monotonic_s() + seconds
        while True:
            try:
                answer = self.request("GET", path)
                if answer.status_code == 200 or monotonic_s() > deadline:
                    return answer
            except httpx.TransportError:
                if monotonic_s() > deadline:
                    raise

    def stop(self) -> list[int]:
        for process in self.processes:
            process.terminate()
        return [process.wait(15) for process in self.processes]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("mesh"))
    for node in ("coordinator", "gateway", "api"):
        made.start(node)
    try:
        assert made.wait("/nodes/gateway").json()["node"] == "gateway"
        yield made
    finally:
        codes = made.stop()
        for process in made.processes:
            assert process.stderr is not None
            process.stderr.close()
    assert codes == [0, 0, 0]


@pytest.fixture
async def client(mesh: Home) -> AsyncIterator[ClientConnection]:
    url = f"ws://127.0.0.1:{mesh.ws}/"
    protocols = [Subprotocol("genesis.v1.json")]
    async with connect(url, subprotocols=protocols, proxy=None) as made:
        await made.send('{"op":"auth","token":"run"}')
        assert (await hear(made, "welcome"))["scope"] == "operate"
        yield made


async def hear(client: ClientConnection, op: str) -> Any:
    while True:
        message = msgspec.json.decode(await client.recv())
        if message["op"] == op:
            return message


def test_rest_answers_from_the_real_coordinator(mesh: Home) -> None:
    names = {node["node"] for node in mesh.request("GET", "/nodes").json()["items"]}
    assert {"coordinator", "gateway", "api"} <= names
    assert 'genesis_node_up{node="gateway"}' in mesh.request("GET", "/metrics").text


def test_absent_node_is_unavailable_not_an_error_of_ours(mesh: Home) -> None:
    answer = mesh.request("GET", "/orders")
    assert (answer.status_code, answer.json()["executed"]) == (503, "no")


def test_new_token_works_at_once_and_an_old_one_no_more(mesh: Home) -> None:
    assert mesh.request("GET", "/mode", token="new").status_code == 401
    mesh.keep(Tokens().with_token(OPERATE, "run").with_token(VIEW, "new"))
    assert mesh.request("GET", "/mode", token="new").status_code == 200
    mesh.keep(Tokens().with_token(OPERATE, "run"))
    assert mesh.request("GET", "/mode", token="new").status_code == 401


async def test_mode_set_by_rest_is_told_over_the_websocket(
    mesh: Home, client: ClientConnection
) -> None:
    wish = {"mode": "emergency", "reason": "drill"}
    assert mesh.request("PUT", "/mode", json=wish).status_code == 200
    while (await hear(client, "mode"))["mode"] != "emergency":
        pass
    assert mesh.request("GET", "/mode").json()["mode"] == "EMERGENCY"
    await client.send(
        '{"op":"request","id":1,"method":"mesh.set_mode","params":{"mode":"safe","reason":"ok"}}'
    )
    assert (await hear(client, "reply"))["id"] == 1


async def test_client_hears_real_events_of_the_mesh(client: ClientConnection) -> None:
    await client.send('{"op":"subscribe","id":1,"topics":["!hb"]}')
    event = await hear(client, "event")
    assert event["topic"] == "!hb"
    assert event["seq"] > 0


@pytest.mark.parametrize(("node", "setting"), [("api", "API_PORT"), ("gateway", "WS_PORT")])
def test_taken_port_ends_with_one_line_and_78(
    mesh: Home, tmp_path: Path, node: str, setting: str
) -> None:
    other = Home(tmp_path)
    other.api, other.ws = mesh.api, mesh.ws
    process = other.start(node)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 78
    assert len(said.strip().splitlines()) == 1
    assert setting in said
    assert str(mesh.api if node == "api" else mesh.ws) in said
