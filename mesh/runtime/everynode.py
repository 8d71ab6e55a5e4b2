"""EveryNode: the methods that every node serves: last values, its journal, untyped requests.

Never here: sockets, what is stored.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec

from mesh.errors import Denied, NotFound
from mesh.protocol.access import Access
from mesh.protocol.control import Ack, Fetch, FetchPage, Snapshot, SnapshotPage
from mesh.protocol.outbound import Outbound
from mesh.runtime.component import Component
from mesh.runtime.doing import current
from mesh.runtime.streams import DurableLog


class Source(Protocol):
    """The process that has what is asked for."""

    @property
    def outbound(self) -> Outbound:
        """Return what is said on the plane of events."""


class EveryNode:
    """Answer for the process; callers get of its topics what they may hear."""

    def __init__(
        self,
        process: Source,
        component: Component,
        access: Access,
        durable_log: Callable[[], DurableLog | None],
    ) -> None:
        self._process, self._component, self._access = process, component, access
        self._durable_log = durable_log

    @property
    def methods(self) -> Mapping[str, Callable[..., Any]]:
        """Return the handlers by method."""
        return {
            "mesh.snapshot": self._snapshot,
            "mesh.fetch": self._fetch,
            "mesh.ack": self._ack,
            "mesh.request": self._untyped,
        }

    def _snapshot(self, ask: Snapshot) -> SnapshotPage:
        prefixes = self._granted(ask.prefixes)
        return SnapshotPage(*self._process.outbound.snapshot(prefixes, ask.after))

    def _fetch(self, ask: Fetch) -> FetchPage:
        granted = msgspec.structs.replace(ask, prefixes=self._granted(ask.prefixes))
        return self._log.fetch(granted)

    async def _ack(self, ack: Ack, caller: str) -> None:
        await self._log.ack(caller, ack)

    async def _untyped(self, ask: tuple[str, Any], caller: str) -> Any:
        return await self._component.process_request(ask[0], ask[1], caller)

    @property
    def _log(self) -> DurableLog:
        log = self._durable_log()
        if log is None:
            raise NotFound("this node has no journal")
        return log

    def _granted(self, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        """Return what of *prefixes* the caller may hear. Raises Denied if that is nothing."""
        doing = current.get()
        if doing is None:
            return prefixes
        user = doing.caller.user
        grants = self._access.of(user)
        granted = tuple(prefix for prefix in prefixes if grants.may_hear(prefix))
        if prefixes and not granted:
            raise Denied(f"{user} may hear none of {', '.join(prefixes)[:200]}")
        return granted
