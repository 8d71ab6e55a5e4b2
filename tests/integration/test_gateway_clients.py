"""The WebSocket server with real clients on real sockets; the mesh is the hub's decode alone.

Never here: sessions' rules, which have their unit tests.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.typing import Origin, Subprotocol

from mesh.errors import ConfigError, NoService
from mesh.protocol.tokens import VIEW, Tokens
from nodes.gateway.hub import Forget, Hub, Listen, News
from nodes.gateway.server import GatewayServer
from nodes.gateway.session import TOO_SLOW, UNAUTHENTICATED, Call
from nodes.gateway.settings import GatewaySettings

TOKENS = Tokens().with_token(VIEW, "see")
JSON = Subprotocol("genesis.v1.json")
MSGPACK = Subprotocol("genesis.v1.msgpack")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(port: int, **changes: Any) -> GatewaySettings:
    made = GatewaySettings(
        host="127.0.0.1",
        port=port,
        api_port=5000,
        clients_max=3,
        message_bytes_max=65_536,
        topics_max=128,
        requests_per_s=50,
        requests_burst=100,
        requests_open_max=32,
        queue_bytes_max=1_048_576,
        stall_s=5,
        auth_s=2,
    )
    return msgspec.structs.replace(made, **changes)


async def ask(call: Call) -> Any:
    if call.method == "execution.orders":
        raise NoService("execution is away")
    return {"asked": call.method}


class Gateway:
    """A running server and what it asked of the mesh."""

    def __init__(self, **changes: Any) -> None:
        self.port = free_port()
        self.topics: list[Listen | Forget] = []
        self.hub = Hub(lambda schema, payload: msgspec.msgpack.decode(payload))
        self.server = GatewayServer(
            settings(self.port, **changes),
            self.hub,
            epoch=7,
            scope_of=TOKENS.scope_of,
            ask=ask,
            on_topics=self.topics.append,
        )
        self.seq = 0

    def connect(self, protocol: Subprotocol = JSON, **options: Any) -> connect:
        return connect(
            f"ws://127.0.0.1:{self.port}/", subprotocols=[protocol], proxy=None, **options
        )

    def publish(self, topic: str, data: Any) -> None:
        self.seq += 1
        payload = msgspec.msgpack.encode(data)
        self.server.publish(News(topic, "n", 1, self.seq, 0, 0, 0, payload))

    @asynccontextmanager
    async def client(self, protocol: Subprotocol = JSON) -> AsyncIterator[ClientConnection]:
        async with self.connect(protocol) as client:
            await say(client, op="auth", token="see")
            assert (await hear(client))["op"] == "welcome"
            assert (await hear(client))["op"] == "mode"
            yield client


async def say(client: ClientConnection, **message: Any) -> None:
    if client.subprotocol == MSGPACK:
        await client.send(msgspec.msgpack.encode(message))
    else:
        await client.send(msgspec.json.encode(message).decode())


async def hear(client: ClientConnection) -> Any:
    data = await client.recv()
    return msgspec.msgpack.decode(data) if isinstance(data, bytes) else msgspec.json.decode(data)


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    made = Gateway()
    await made.server.start()
    yield made
    made.hub.check()
    await made.server.stop()


@pytest.mark.parametrize("protocol", [JSON, MSGPACK])
async def test_client_subscribes_and_hears(gateway: Gateway, protocol: Subprotocol) -> None:
    async with gateway.client(protocol) as client:
        gateway.publish("md.quote.X", {"bid": "1"})
        await say(client, op="subscribe", id=1, topics=["md.quote.", "order."])
        assert (await hear(client))["data"] == {"bid": "1"}
        assert (await hear(client))["op"] == "subscribed"
        gateway.publish("order.paper", {"n": 1})
        event = await hear(client)
        assert (event["op"], event["topic"], event["data"]) == ("event", "order.paper", {"n": 1})
        assert gateway.topics == [Listen("order.")]


async def test_leaving_client_gives_its_topics_back(gateway: Gateway) -> None:
    async with gateway.client() as client:
        await say(client, op="subscribe", id=1, topics=["order."])
        await hear(client)
    await until(lambda: not gateway.hub.sessions)
    assert gateway.topics == [Listen("order."), Forget("order.")]


async def test_requests_are_answered_or_fail_with_a_code(gateway: Gateway) -> None:
    async with gateway.client() as client:
        await say(client, op="request", id=1, method="coordinator.status")
        assert await hear(client) == {
            "op": "reply",
            "id": 1,
            "data": {"asked": "coordinator.status"},
        }
        await say(client, op="request", id=2, method="execution.orders")
        error = await hear(client)
        assert (error["id"], error["code"], error["executed"]) == (2, "NO_SERVICE", "no")


async def test_header_authenticates_programs(gateway: Gateway) -> None:
    headers = {"Authorization": "Bearer see"}
    async with gateway.connect(additional_headers=headers) as client:
        assert (await hear(client))["op"] == "welcome"


async def test_wrong_token_is_told_and_closed_with_4001(gateway: Gateway) -> None:
    async with gateway.connect() as client:
        await say(client, op="auth", token="wrong")
        assert (await hear(client))["op"] == "bye"
        await client.wait_closed()
        assert client.close_code == UNAUTHENTICATED


async def test_pages_from_elsewhere_may_not_connect(gateway: Gateway) -> None:
    with pytest.raises(InvalidHandshake):
        await gateway.connect(origin=Origin("http://evil.example:5000"))
    async with gateway.connect(origin=Origin("http://localhost:5000")) as client:
        assert client.subprotocol == JSON


async def test_token_in_the_query_is_refused(gateway: Gateway) -> None:
    with pytest.raises(InvalidHandshake):
        await connect(f"ws://127.0.0.1:{gateway.port}/?token=see", proxy=None)


async def test_clients_beyond_the_limit_are_refused(gateway: Gateway) -> None:
    async with gateway.client(), gateway.client(), gateway.client():
        with pytest.raises(InvalidHandshake):
            await gateway.connect()


async def test_compression_is_not_negotiated(gateway: Gateway) -> None:
    async with gateway.connect(compression="deflate") as client:
        assert client.protocol.extensions == []


async def test_client_that_does_not_read_is_dropped_and_nobody_else_notices(
    gateway: Gateway,
) -> None:
    async with gateway.client() as slow, gateway.client() as quick:
        for client in (slow, quick):
            await say(client, op="subscribe", id=1, topics=["order."])
            await hear(client)
        slow.transport.pause_reading()
        heard = 0
        while len(gateway.hub.sessions) == 2 and heard < 20_000:
            gateway.publish("order.paper", {"x": "y" * 1_000})
            heard += (await hear(quick))["op"] == "event"
        assert len(gateway.hub.sessions) == 1
        slow.transport.resume_reading()
        with contextlib.suppress(ConnectionClosed):
            while True:
                await slow.recv()
        assert slow.close_code in (TOO_SLOW, 1006)  # 1006: aborted before the close was read


async def test_stop_says_bye_and_frees_the_port(gateway: Gateway) -> None:
    async with gateway.client() as client:
        await gateway.server.stop()
        assert (await hear(client))["op"] == "bye"
        await client.wait_closed()
    again = Gateway()
    again.server.settings = settings(gateway.port)
    await again.server.start()
    await again.server.stop()


async def test_taken_port_is_one_line_naming_port_and_setting(gateway: Gateway) -> None:
    other = Gateway()
    other.server.settings = settings(gateway.port)
    with pytest.raises(ConfigError) as caught:
        await other.server.start()
    line = str(caught.value)
    assert str(gateway.port) in line
    assert "WS_PORT" in line
    assert "\n" not in line


async def until(condition: Any) -> None:
    """Let the loop run until *condition* holds; the test's time-out is the limit."""
    while not condition():  # noqa: ASYNC110  # nothing else tells that a handler has ended
        await asyncio.sleep(0)
