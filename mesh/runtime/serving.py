"""Serving: a request becomes a handler's task and its outcome exactly one answer.

Never here: sockets, what methods mean, deciding who may run (mesh.protocol.answering).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from mesh.clock import monotonic_s
from mesh.errors import (
    Denied,
    Expired,
    Invalid,
    InvalidTransition,
    LocalProtocolError,
    MeshError,
    NotFound,
    OutcomeUnknown,
    StorageError,
    Unavailable,
)
from mesh.protocol import envelope, rpcs
from mesh.protocol.access import Access
from mesh.protocol.envelope import ERR, REP, Kind, Rpc
from mesh.protocol.once import Key, Row
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, Caller, Method
from mesh.protocol.work import Abort, Execute, Forget, Resolve, Resume, Store, Work
from mesh.runtime.component import Component
from mesh.runtime.deadline import within
from mesh.runtime.doing import Doing, current
from mesh.runtime.handlers import REQUEST_TIMEOUT_S, Bound, RequestMark, bind
from mesh.runtime.logs import Logs
from mesh.runtime.streams import DISK_RETRY_S, DurableLog
from mesh.transport.handled import handled
from mesh.transport.responder import Job, Responder
from mesh.transport.rpc import failure_of

AT_ONCE: Final = ("mesh.snapshot", "mesh.fetch", "mesh.ack")  # of what is published or stored
_BUGS: Final = (LocalProtocolError, InvalidTransition)  # nothing a caller could react to
TO_THE_END: Final = ("mesh.ack", "mesh.request")  # also when the caller has gone meanwhile


@dataclass(frozen=True, slots=True)
class Served:
    """A method, its handler, and what is written on it."""

    method: Method
    bound: Bound
    mark: RequestMark

    @property
    def stores(self) -> bool:
        """Say whether replies to requests with a key are to be stored."""
        return self.method.kind is KEYED and not self.mark.recalls


class Serving:
    """The methods of one node: those of its component and those every node has.

    Set responder before anything is served.
    """

    responder: Responder

    def __init__(
        self,
        component: Component,
        every_node: Mapping[str, Callable[..., Any]],
        *,
        nid: int,
        log: Logs,
        access: Access,
        spawn: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
        durable_log: Callable[[], DurableLog | None],
    ) -> None:
        self._component, self._durable_log, self._nid = component, durable_log, nid
        self._log, self._access, self._spawn = log, access, spawn
        self._served: dict[int, Served] = {}
        self._doing: dict[int, tuple[Doing, asyncio.Task[None]]] = {}
        self._room: dict[int, asyncio.Event] = {}  # of replies in parts, set when one may go on
        for method, handler in every_node.items():
            kind = ONCE if method in TO_THE_END else SAFE
            at_once = method in AT_ONCE
            self._add(handler, RequestMark(method, REQUEST_TIMEOUT_S, at_once=at_once, kind=kind))
        for name in dir(type(component)):
            mark = getattr(getattr(type(component), name), "request_mark", None)
            if mark is not None:
                self._add(getattr(component, name), mark)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the methods served, sorted."""
        return tuple(sorted(served.method.name for served in self._served.values()))

    @property
    def methods(self) -> dict[int, Method]:
        """Return the methods served, by number."""
        return {number: served.method for number, served in self._served.items()}

    @property
    def stores(self) -> bool:
        """Say whether a method needs a journal for its replies."""
        return any(served.stores for served in self._served.values())

    def answer(self, rpc: Rpc, caller: Caller) -> tuple[Kind, bytes] | None:
        """Return the answer to a plain request; None if it waits for the disk or is refused."""
        served, log = self._served[rpc.method], self._durable_log()
        if log is not None and (log.full or log.pending) and not served.mark.at_once:
            return None
        doing = Doing(caller, served.method.name, rpc.corr, self._nid, rpc.cause)
        token, caused = current.set(doing), handled.set(doing)
        try:
            reply = envelope.encode_value(self._call(served.bound, rpc.body, caller.node))
        except StorageError:
            raise  # the disk failed: the node ends and recovers from what is on it
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # a handler's bug answers its caller; the node goes on
            return ERR, rpcs.encoded(failure_of(self._told(served, error)))
        finally:
            handled.reset(caused)
            current.reset(token)
        return rpcs.fitting(REP, reply)

    def serve(self, job: Job) -> None:  # a row per kind of job
        """Carry out what the machine wants of handlers and the disk."""
        match job:
            case Execute(work, mark):
                self._execute(work, mark)
            case Resolve(work):
                self._resolve(work)
            case Abort(work):
                self._abort(work)
            case Resume(work):
                if (room := self._room.get(work.number)) is not None:
                    room.set()
            case Store(work, row):
                self._spawn(self._store(work, row), "store a reply")
            case Forget(keys):
                self._spawn(self._forget(keys), "forget replies")

    async def process(self, request_type: str, data: Any, source: str) -> Any:
        """Return what the typed handler *request_type* answers to plain *data*.

        Raises Denied if the request that is being answered came from a user who may not call
        it, Invalid if it needs a key, Unavailable if it writes and the disk is full.
        """
        found = self._served.get(envelope.method_id(request_type))
        if found is None:
            raise NotFound(f"this node does not serve {request_type}")
        self._expect_room(found)
        doing = current.get()
        user = doing.caller.user if doing is not None else None
        if user is not None and not self._access.may_call(user, request_type):
            raise Denied(f"{user} may not call {request_type}")
        if user is not None and (found.method.kind is KEYED or found.bound.streams):
            raise Invalid(f"{request_type} needs a call of its own")
        result = self._call(found.bound, envelope.encode_value(data), source)
        return await result if found.bound.is_async else result

    # Jobs.

    def _execute(self, work: Work, row: Row | None) -> None:
        served = self._served[work.method_id]
        try:
            self._expect_room(served)
        except Unavailable as full:
            self._fail(work, full)
        else:
            self._begin(work, served, self._handled(work, served, row))

    def _expect_room(self, served: Served) -> None:
        log = self._durable_log()
        if served.mark.writes and log is not None and log.full:
            raise Unavailable("the disk is full", retry_after_s=DISK_RETRY_S)

    def _resolve(self, work: Work) -> None:
        served = self._served[work.method_id]
        if served.mark.recalls:
            self.responder.absent(work.number)
        else:
            self._begin(work, served, self._resolved(work, served))

    def _abort(self, work: Work) -> None:
        found = self._doing.get(work.number)
        if found is None:
            return  # its answer is on the way
        doing, task = found
        if doing.ended and work.method.kind is not SAFE:
            return  # its answer waits for the disk, which will say whether its effect stays
        if doing.began:
            task.cancel()
        doing.dropped = True  # a task that is cancelled before it began would never say so

    async def _store(self, work: Work, row: Row) -> None:
        if (log := self._durable_log()) is not None and self._served[work.method_id].stores:
            await log.store(rows=(row,), patient=True, decided=False)
        self.responder.stored(work.number)

    async def _forget(self, keys: tuple[Key, ...]) -> None:
        if (log := self._durable_log()) is not None:
            await log.store(forgotten=keys, patient=True, decided=False)

    # Handlers.

    def _begin(self, work: Work, served: Served, outcome: "Coroutine[Any, Any, bytes]") -> None:
        method, recalls = served.method.name, served.mark.recalls
        doing = Doing(work.caller, method, work.corr, self._nid, work.cause, work, recalls)
        task = self._spawn(self._answer(doing, work, served, outcome), f"answer {method}")
        self._doing[work.number] = doing, task

    async def _answer(
        self, doing: Doing, work: Work, served: Served, outcome: "Coroutine[Any, Any, bytes]"
    ) -> None:
        task, doing.began = asyncio.current_task(), True
        assert task is not None
        if doing.dropped:
            outcome.close()
            del self._doing[work.number]
            self._fail(work, Expired(f"{served.method.name}: given up before it began"))
            return
        current.set(doing)
        handled.set(doing)
        try:
            try:
                reply = await self._in_time(work, served, outcome)
                doing.ended = True
                await self._settled(served)
            finally:
                del self._doing[work.number]  # from now on it cannot be aborted
        except StorageError:
            raise  # the disk failed: the node ends and recovers from what is on it
        except asyncio.CancelledError as error:
            if task.cancelling() > doing.dropped:
                raise  # the node ends
            await self._ended(doing, work, served, error)
        except Exception as error:  # noqa: BLE001  # a handler's bug answers its caller; the node goes on
            await self._ended(doing, work, served, error)
        else:
            kept = doing.reply
            self._reply(work, served, reply if kept is None else kept, stored=kept is not None)

    async def _in_time(
        self, work: Work, served: Served, outcome: "Coroutine[Any, Any, bytes]"
    ) -> bytes:
        """Await the handler within the deadline of the caller; the machine's clock cuts it."""
        left_s, limit_s = work.deadline - monotonic_s(), served.mark.timeout_s
        with within(min(left_s, limit_s)):
            if work.method.kind is not SAFE or limit_s >= left_s:
                return await outcome
            try:
                # The method's own, shorter than the caller's.
                async with asyncio.timeout(limit_s) as limit:
                    return await outcome
            except TimeoutError:
                if not limit.expired():
                    raise  # one of the handler's
                name = served.method.name
                raise OutcomeUnknown(f"{name} took longer than the deadline") from None

    async def _handled(self, work: Work, served: Served, row: Row | None) -> bytes:
        if row is not None and (log := self._durable_log()) is not None and served.stores:
            await log.store(rows=(row,), decided=False)
        result = self._call(served.bound, work.body, work.caller.node)
        if served.bound.streams:
            async with aclosing(result) as parts:  # its end is here, not when it is collected
                await self._send_parts(work, parts)
            return b""
        return envelope.encode_value(await result if served.bound.is_async else result)

    async def _send_parts(self, work: Work, parts: AsyncIterator[object]) -> None:
        number, answering = work.number, self.responder.answering
        room = self._room[number] = asyncio.Event()
        try:
            async for part in parts:
                body = envelope.encode_value(part)
                while not answering.may_send(number):
                    room.clear()
                    await room.wait()
                self.responder.part(number, body)
        finally:
            del self._room[number]

    async def _resolved(self, work: Work, served: Served) -> bytes:
        arg = _decoded(work.body, served.bound)
        name, caller = served.method.name, work.caller.node
        return envelope.encode_value(await self._component.resolve_request(name, arg, caller))

    async def _settled(self, served: Served) -> None:
        log = self._durable_log()
        if log is not None and not served.mark.at_once:
            await log.settled()  # no answer runs ahead of the disk

    # Outcomes.

    async def _ended(self, doing: Doing, work: Work, served: Served, error: BaseException) -> None:
        """Answer for a handler that was cut or failed: what it had handed to the disk stays."""
        name = served.method.name
        if doing.reply is not None:
            await self._settled(served)  # if the disk refuses it, the reply is gone
        cut = doing.dropped and isinstance(error, asyncio.CancelledError)
        if work.resolves and isinstance(error, NotFound):
            self.responder.absent(work.number)
        elif doing.reply is not None:
            if not cut:
                self._log.failure("handler_failed_late", error, method=name)
            self._reply(work, served, doing.reply, stored=True)
        elif cut:
            why = f"{name} took longer than the deadline, or was cancelled"
            self._fail(work, OutcomeUnknown(why))
        else:
            self._fail(work, self._told(served, error))

    def _reply(self, work: Work, served: Served, reply: bytes, *, stored: bool = False) -> None:
        self.responder.done(work.number, reply, stored=stored or not served.stores)

    def _fail(self, work: Work, error: MeshError) -> None:
        self.responder.failed(work.number, failure_of(error))

    def _told(self, served: Served, error: BaseException) -> MeshError:
        """Return what the caller is told of *error*; a bug of ours goes to the log."""
        if isinstance(error, MeshError) and not isinstance(error, _BUGS):
            return error
        name = served.method.name
        self._log.failure("handler_failed", error, method=name)
        return MeshError(f"{name}: {type(error).__name__} in the handler")

    @staticmethod
    def _call(bound: Bound, body: bytes, source: str) -> Any:
        arg = _decoded(body, bound)
        if bound.arguments == 1:
            return bound.call(arg)
        return bound.call(arg, source) if bound.arguments else bound.call()

    def _add(self, handler: Callable[..., Any], mark: RequestMark) -> None:
        number, bound = envelope.method_id(mark.method), bind(handler)
        if number in self._served:
            raise LocalProtocolError(
                f"{mark.method} collides with {self._served[number].method.name}"
            )
        plain = not bound.is_async and not bound.streams and mark.kind is not KEYED
        method = Method(
            mark.method, mark.kind, mark.urgent, mark.marks, bound.streams, mark.timeout_s, plain
        )
        self._served[number] = Served(method, bound, mark)


def _decoded(body: bytes, bound: Bound) -> Any:
    try:
        return bound.decode(body)
    except MeshError as error:
        raise Invalid(str(error)) from None
