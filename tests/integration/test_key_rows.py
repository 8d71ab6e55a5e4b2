"""Rows about keys changed under load: every link crosses TCP under CURVE, as between hosts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias

import pytest

from mesh.protocol.control import DURABLE
from mesh.runtime.bus import Bus
from mesh.runtime.component import Component, event
from mesh.runtime.keys import KeyStore

Eventually: TypeAlias = Callable[..., Awaitable[None]]

ROLES = {"owner": "guest", "friend": "guest", "other": "guest"}


class Owner(Component):
    """Commits one number after the other, over all its runs."""

    says: ClassVar = {"d.n.": DURABLE}

    async def count(self) -> None:
        while True:
            await self.commit(("d.n.a", self.journal.last + 1))
            await asyncio.sleep(0.002)


class Follower(Component):
    """Applies every number; stores nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    @event("d.n.", durable=True)
    def on_number(self, number: int) -> None:
        self.numbers.append(number)

    @property
    def newest(self) -> int:
        return self.numbers[-1] if self.numbers else 0


@pytest.fixture
def store(mesh: Any, monkeypatch: pytest.MonkeyPatch) -> KeyStore:
    """Return the keys of three nodes, each of which believes the others on another host."""
    monkeypatch.setattr("mesh.runtime.peers.host_id", lambda: "elsewhere")
    store = KeyStore(mesh.paths)
    store.create(ROLES)
    return store


async def owner_up(mesh: Any) -> Bus:
    component = Owner()
    bus: Bus = await mesh.start("owner", component)
    bus.spawn(component.count(), "count")
    return bus


async def goes_on(bus: Bus, follower: Follower, eventually: Eventually) -> None:
    """Return once *follower* has applied what the owner commits from now on."""
    newest = bus.journal.last
    await eventually(lambda: follower.newest > newest)
    assert follower.numbers == list(range(1, follower.newest + 1))


async def test_f54_rotated_key_interrupts_nobody(
    mesh: Any, store: KeyStore, eventually: Eventually
) -> None:
    friend = Follower()
    bus = await owner_up(mesh)
    await mesh.start("friend", friend)
    await goes_on(bus, friend, eventually)
    old = store.authorized().nodes["owner"].current
    store.rotate("owner")
    await goes_on(bus, friend, eventually)  # both keys are good
    mesh.crash("owner")
    bus = await owner_up(mesh)  # with the new one
    await goes_on(bus, friend, eventually)
    store.finish("owner")
    assert store.authorized().nodes["owner"].current != old
    await goes_on(bus, friend, eventually)
    mesh.crash("friend")
    late = Follower()
    await mesh.start("friend", late)
    await goes_on(bus, late, eventually)


async def test_f54_revoked_key_is_out_under_load_and_the_others_are_back(
    mesh: Any, store: KeyStore, eventually: Eventually
) -> None:
    friend, other = Follower(), Follower()
    bus = await owner_up(mesh)
    await mesh.start("friend", friend)
    await mesh.start("other", other)
    await goes_on(bus, friend, eventually)
    await goes_on(bus, other, eventually)
    refused = mesh.doors["owner"].zap.refused
    store.revoke("other")
    await eventually(lambda: mesh.doors["owner"].zap.refused > refused)
    heard = len(other.numbers)
    await goes_on(bus, friend, eventually)
    await goes_on(bus, friend, eventually)
    assert len(other.numbers) == heard
