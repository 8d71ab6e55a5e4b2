"""Authenticator: who is let in, as whom; refused for good, or for now; never a crash."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import ConfigError
from mesh.transport.auth import Authenticator, Door, Zap
from mesh.transport.selftest import refuse_strangers
from mesh.transport.sockets import Sockets

KEY = bytes(range(32))
DOOR = Door(whois={17: "risk"}.get, keys={KEY: "execution"}.get, uids=frozenset({1000}))
REQUEST = [b"1.0", b"7", b"genesis", b"localhost:1000:1000:17", b"", b"NULL"]


def no_answer(_: object) -> str:
    raise OSError("disk on fire")


def zap(door: Door, told: list[tuple[str, str]] | None = None) -> Zap:
    told = [] if told is None else told
    return Zap(door, lambda kind, why: told.append((kind, why)), now=lambda: 0.0)


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    made = Sockets()
    yield made
    made.close()


@pytest.fixture
def answering(sockets: Sockets) -> Iterator[Callable[..., Authenticator]]:
    made: list[Authenticator] = []

    def make(door: Door, report: Callable[[str, str], None] | None = None) -> Authenticator:
        loop = asyncio.get_running_loop()
        made.append(Authenticator(loop, sockets, door, report or (lambda kind, why: None)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("mechanism", "address", "credentials", "status", "user"),
    [
        (b"NULL", "localhost:1000:1000:17", [], b"200", "risk"),
        (b"NULL", "localhost:1000:1000:18", [], b"200", "local:1000"),
        (b"NULL", "localhost:1000:1000:0", [], b"200", "local:1000"),
        (b"NULL", "localhost:1001:1000:17", [], b"400", ""),  # A29: another uid
        (b"NULL", "localhost:0:0:17", [], b"400", ""),
        (b"NULL", "localhost", [], b"400", ""),
        (b"NULL", "localhost:1000:1000:17:1", [], b"400", ""),
        (b"NULL", "localhost:1000:1000:-1", [], b"400", ""),
        (b"NULL", "127.0.0.1", [], b"200", "anonymous"),
        (b"NULL", "::1", [], b"200", "anonymous"),
        (b"NULL", "::ffff:127.0.0.1", [], b"200", "anonymous"),
        (b"NULL", "10.0.0.1", [], b"400", ""),
        (b"NULL", "::ffff:10.0.0.1", [], b"400", ""),
        (b"NULL", "", [], b"400", ""),
        (b"CURVE", "10.0.0.1", [KEY], b"200", "execution"),
        (b"CURVE", "localhost:1001:1000:17", [KEY], b"200", "execution"),
        (b"CURVE", "10.0.0.1", [bytes(32)], b"400", ""),  # A2
        (b"CURVE", "10.0.0.1", [KEY[:31]], b"400", ""),
        (b"CURVE", "10.0.0.1", [KEY, KEY], b"400", ""),
        (b"CURVE", "10.0.0.1", [], b"400", ""),
        (b"PLAIN", "127.0.0.1", [b"admin", b"secret"], b"400", ""),
        (b"GSSAPI", "127.0.0.1", [b"principal"], b"400", ""),
        (b"null", "localhost:1000:1000:17", [], b"400", ""),
    ],
)
def test_peer_is_who_its_lock_or_key_says_or_is_refused(
    mechanism: bytes, address: str, credentials: list[bytes], status: bytes, user: str
) -> None:
    answer = DOOR.decide(mechanism, address, credentials)
    assert (answer.status, answer.user) == (status, user)
    assert bool(answer.why) is (status != b"200")


def test_without_arguments_our_own_uid_alone_is_let_in() -> None:
    mine, other = os.getuid(), os.getuid() + 1
    assert Door().decide(b"NULL", f"localhost:{mine}:0:1", []).user == f"local:{mine}"
    assert Door().decide(b"NULL", f"localhost:{other}:0:1", []).status == b"400"
    assert Door().decide(b"CURVE", "127.0.0.1", [KEY]).status == b"400"


def test_reply_has_the_frames_of_rfc_27() -> None:
    assert zap(DOOR).handle(REQUEST) == [b"1.0", b"7", b"200", b"", b"risk", b""]


def test_other_versions_and_domains_are_refused() -> None:
    auth = zap(DOOR)
    for version, domain in ((b"2.0", b"genesis"), (b"1.0", b""), (b"1.0", b"global")):
        assert auth.handle([version, b"7", domain, *REQUEST[3:]])[2] == b"400"
    assert (auth.accepted, auth.refused, auth.faults) == (0, 3, 0)


def test_a_4_our_own_failure_refuses_for_now_and_is_told_once_per_episode() -> None:
    told: list[tuple[str, str]] = []
    ways = iter([no_answer, no_answer, lambda pid: "risk", no_answer])

    def whois(pid: int) -> str | None:
        return next(ways)(pid)

    auth = zap(Door(whois, uids=frozenset({1000})), told)
    statuses = [auth.handle(REQUEST)[2] for _ in range(4)]
    assert statuses == [b"300", b"300", b"200", b"300"]
    assert told == [("fault", "OSError: disk on fire")] * 2
    assert (auth.accepted, auth.faults) == (1, 3)


def test_refusals_are_told_at_most_once_a_second_and_counted_always() -> None:
    told: list[tuple[str, str]] = []
    auth = zap(DOOR, told)
    for _ in range(100):
        auth.handle([b"1.0", b"7", b"genesis", b"10.0.0.1", b"", b"NULL"])
    assert auth.refused == 100
    assert len(told) == 1


@given(st.lists(st.binary(max_size=40), max_size=9), st.booleans())
def test_no_request_whatever_lets_a_stranger_in_or_raises(
    parts: Sequence[bytes], headed: bool
) -> None:
    auth = zap(Door(whois=no_answer, keys=no_answer))
    reply = auth.handle([b"1.0", b"7", b"genesis", *parts] if headed else parts)
    assert len(reply) == 6
    assert reply[2] in (b"300", b"400")
    assert reply[4] == b""


async def test_self_test_passes_where_strangers_are_refused(
    sockets: Sockets, answering: Callable[..., Authenticator]
) -> None:
    auth = answering(DOOR)
    await refuse_strangers(sockets)
    assert auth.zap.refused == 1


@pytest.mark.parametrize("keys", [lambda key: "risk", no_answer], ids=["lets in", "fails"])
async def test_self_test_fails_where_keys_are_not_looked_at(
    sockets: Sockets, answering: Callable[..., Authenticator], keys: Callable[[bytes], str]
) -> None:
    answering(Door(keys=keys))
    with pytest.raises(ConfigError, match="refusing to start"):
        await refuse_strangers(sockets)


async def test_self_test_fails_without_authenticator(sockets: Sockets) -> None:
    with pytest.raises(ConfigError, match="refusing to start"):
        await refuse_strangers(sockets, timeout_s=0.2)


async def test_closing_twice_is_fine(answering: Callable[..., Authenticator]) -> None:
    auth = answering(DOOR)
    auth.close()
    auth.close()
