"""Channels deliver, or say that they did not. Never here: the internet."""

import asyncio
from http import HTTPStatus

import pytest

from mesh.errors import ConfigError
from nodes.domain.decisions import Alert
from nodes.notification.channels import Channels

# The library's own imports, loaded with its plug-ins.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

ALERT = Alert("warning", "mode safe", "recorder is DOWN")


async def test_the_log_is_a_channel_that_needs_no_library() -> None:
    written: list[Alert] = []
    channels = Channels(("log",), written.append)
    await channels.open()
    assert await channels.send(ALERT) == (["log"], [])
    assert written == [ALERT]
    channels.close()


async def test_a_real_delivery_arrives_and_a_refused_one_is_told() -> None:
    bodies: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        bodies.append(await reader.readexactly(length))
        status = HTTPStatus.OK if b"/good" in head else HTTPStatus.FORBIDDEN
        writer.write(
            f"HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()
        )
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        here = f"json://127.0.0.1:{port}"
        channels = Channels((f"{here}/good", f"{here}/bad"), lambda _: None)
        await channels.open()
        assert await channels.send(ALERT) == (["1:json"], ["2:json"])
        channels.close()
    assert len(bodies) == 2
    assert b"recorder is DOWN" in bodies[0]


async def test_a_channel_that_keeps_failing_is_left_alone_for_a_while() -> None:
    tries = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    written: list[Alert] = []
    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        channels = Channels((f"json://127.0.0.1:{port}", "log"), written.append)
        await channels.open()
        for _ in range(5):
            assert await channels.send(ALERT) == (["log"], ["1:json"])
        (breaker,) = channels.breakers
        assert (breaker.name, breaker.state) == ("notification.1.json", "OPEN")
        channels.close()
    assert tries == 3
    assert len(written) == 5


async def test_a_wrong_url_is_refused_without_showing_its_secrets() -> None:
    channels = Channels(("log", "nonsense://user:secret@host"), lambda _: None)
    with pytest.raises(ConfigError, match="channel 2") as caught:
        await channels.open()
    assert "secret" not in str(caught.value)
    channels.close()
