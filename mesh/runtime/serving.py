"""Serving: a request becomes a handler's task and its outcome exactly one answer.

Never here: sockets, what methods mean.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from mesh.errors import (
    Draining,
    Invalid,
    LocalProtocolError,
    MeshError,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    StorageError,
    Unavailable,
)
from mesh.protocol import envelope
from mesh.runtime.component import Component
from mesh.runtime.handlers import REQUEST_TIMEOUT_S, Bound, RequestMark, bind
from mesh.runtime.health import Health
from mesh.runtime.logs import Logs
from mesh.runtime.streams import DISK_RETRY_S, DurableLog
from mesh.transport.rpc import Call

INFLIGHT_MAX: Final = 256
AT_ONCE: Final = ("mesh.snapshot", "mesh.fetch", "mesh.ack")  # of what is published or stored


class Serving:
    """The methods of one node: those of its component and those every node has."""

    def __init__(
        self,
        component: Component,
        every_node: dict[str, Callable[..., Any]],
        *,
        log: Logs,
        health: Health,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        durable_log: Callable[[], DurableLog | None],
    ) -> None:
        self.draining = False
        self._durable_log = durable_log
        self._log, self._health, self._spawn = log, health, spawn
        self._methods: dict[int, tuple[str, Bound, RequestMark]] = {}
        for method, handler in every_node.items():
            at_once = method in AT_ONCE
            self._add(handler, RequestMark(method, REQUEST_TIMEOUT_S, at_once=at_once))
        for name in dir(type(component)):
            mark = getattr(getattr(type(component), name), "request_mark", None)
            if mark is not None:
                self._add(getattr(component, name), mark)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the methods served, sorted."""
        return tuple(sorted(name for name, _, _ in self._methods.values()))

    def serve(self, call: Call) -> None:
        """Start to answer *call*, or refuse it at once."""
        found = self._methods.get(call.method)
        if found is None:
            call.fail(NotFound("this node does not serve this method"))
        elif self.draining:
            call.fail(Draining("the node is draining"))
        elif self._health.inflight >= INFLIGHT_MAX:
            call.fail(Overloaded(f"{INFLIGHT_MAX} requests are under way"))
        elif found[2].writes and (log := self._durable_log()) is not None and log.full:
            call.fail(Unavailable("the disk is full", retry_after_s=DISK_RETRY_S))
        else:
            self._health.inflight += 1
            self._spawn(self._answer(call, *found), f"answer {found[0]}")

    async def process(self, request_type: str, data: Any, source: str) -> Any:
        """Return what the typed handler *request_type* answers to plain *data*."""
        found = self._methods.get(envelope.method_id(request_type))
        if found is None:
            raise NotFound(f"this node does not serve {request_type}")
        return await self._run(found[1], envelope.encode_value(data), source)

    async def _answer(self, call: Call, method: str, bound: Bound, mark: RequestMark) -> None:
        try:
            async with asyncio.timeout(min(mark.timeout_s, call.budget_s)):
                result = await self._run(bound, call.body, call.caller.node)
                reply = envelope.encode_value(result)
                log = self._durable_log()
                if log is not None and not mark.at_once:
                    await log.settled()  # no answer runs ahead of the disk
                call.reply(reply)
        except StorageError:
            raise  # the disk failed: the node ends and recovers from what is on it
        except MeshError as error:
            call.fail(error)
        except TimeoutError:
            call.fail(OutcomeUnknown(f"{method} took longer than the deadline"))
        except Exception as error:  # noqa: BLE001  # a handler's bug answers its caller; the node goes on
            self._log.failure("handler_failed", error, method=method)
            call.fail(MeshError(f"{method}: {type(error).__name__} in the handler"))
        finally:
            self._health.inflight -= 1

    @staticmethod
    async def _run(bound: Bound, body: bytes, source: str) -> object:
        try:
            arg = envelope.decode_value(body, bound.kind)
        except MeshError as error:
            raise Invalid(str(error)) from None
        result = bound.call(*(arg, source)[: bound.arguments])
        return await result if bound.is_async else result

    def _add(self, handler: Callable[..., Any], mark: RequestMark) -> None:
        number = envelope.method_id(mark.method)
        if number in self._methods:
            raise LocalProtocolError(f"{mark.method} collides with {self._methods[number][0]}")
        self._methods[number] = (mark.method, bind(handler), mark)
