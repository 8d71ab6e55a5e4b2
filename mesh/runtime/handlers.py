"""Handlers: the marks on a node's methods, and what their annotations say.

Never here: calling them, sockets.
"""

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from mesh.errors import LocalProtocolError
from mesh.protocol.cause import Cause, following
from mesh.protocol.envelope import REPLAY, SNAPSHOT, TOMBSTONE, Event, decoder
from mesh.protocol.rpcs import KEYED, ONCE, SAFE, MethodClass

Handler = TypeVar("Handler", bound=Callable[..., Any])
REQUEST_TIMEOUT_S: Final = 2.0
PLAIN: Final = decoder()  # to whatever MessagePack holds
KINDS: Final[dict[str, MethodClass]] = {"safe": SAFE, "keyed": KEYED, "once": ONCE}


class EventMeta(msgspec.Struct, frozen=True, gc=False):
    """What came with an event. ts_* in ns UTC; offset 0 unless durable.

    nid: of the node. cause: what the event follows from, None for a root; trace: the number
    that all has which follows from one root.
    """

    topic: str
    node: str
    epoch: int
    seq: int
    offset: int
    ts_recv: int
    ts_sent: int
    log_id: str = ""
    snapshot: bool = False
    tombstone: bool = False
    replay: bool = False
    skipped: int = 0  # events of the topic that gave way to this one
    nid: int = 0
    cause: Cause | None = None

    @property
    def trace(self) -> int:
        """Return the trace that the event belongs to."""
        return self.follows().trace

    def follows(self) -> Cause:
        """Return the cause of what is done because of this event."""
        number = self.offset or self.seq
        return following(self.cause, self.nid, self.epoch, number, self.topic, self.ts_recv)


def meta_of(event: Event, node: str, log_id: str = "") -> EventMeta:
    """Return what handlers are told of *event*, published by *node*."""
    return EventMeta(
        event.topic,
        node,
        event.epoch,
        event.seq,
        event.offset,
        event.ts_recv,
        event.ts_sent,
        log_id,
        bool(event.flags & SNAPSHOT),
        bool(event.flags & TOMBSTONE),
        bool(event.flags & REPLAY),
        0,
        event.nid,
        event.cause,
    )


@dataclass(frozen=True, slots=True)
class EventMark:
    """Written on a method by @event."""

    prefix: str
    durable: bool
    halt: bool = False
    conflate: bool = False
    batch: bool = False
    max_age_s: float | None = None


@dataclass(frozen=True, slots=True)
class RequestMark:
    """Written on a method by @request."""

    method: str
    timeout_s: float
    writes: bool = False
    at_once: bool = False
    kind: MethodClass = SAFE
    urgent: bool = False
    marks: bool = False
    recalls: bool = False


def event(
    prefix: str,
    *,
    durable: bool = False,
    halt: bool = False,
    conflate: bool = False,
    batch: bool = False,
    max_age_s: float | None = None,
) -> Callable[[Handler], Handler]:
    """Let a method hear all topics that begin with *prefix*.

    The payload's type is the method's first annotation; a second parameter gets EventMeta.
    A plain method runs at once; a coroutine runs in order from a bounded queue.

    durable asks for every event of the publishers' journals, at least once and in order. One
    that fails five times becomes a dead letter; with halt the stream stops there instead.
    What raises Unavailable is tried again until it does not. With batch the handler gets a
    list of payloads: what is at hand of its topics, 256 at most and often one, and the
    EventMeta of the last, which `commit(applied=meta)` stores for all of them; annotated
    list[EventMeta] the second parameter gets each. When a batch fails its events come again
    one by one, so that only the bad one is put aside.

    For the others: conflate gives only the newest event per topic (or conflation key) when
    the handler is slower than the stream; batch gives a list of payloads, all that one drain
    of a link found, and the EventMeta of the last. Events older than max_age_s are dropped;
    when that lasts snail_s of [mesh] the node ends and begins anew. A tombstone reaches only
    handlers that take EventMeta; its payload is the last value.

    What a handler says and asks tells of the event as its cause, and of a batch's last; but a
    batch of events that are not durable has none unless the handler takes EventMeta.
    """
    if durable and (conflate or max_age_s is not None):
        raise LocalProtocolError(f"{prefix}: a durable event is never skipped")
    kind = EventMark(prefix, durable, halt, conflate, batch, max_age_s)

    def mark(handler: Handler) -> Handler:
        marks = [*getattr(handler, "event_marks", ()), kind]
        handler.event_marks = marks  # type: ignore[attr-defined]  # a function takes attributes
        return handler

    return mark


def request(
    method: str,
    *,
    timeout_s: float = REQUEST_TIMEOUT_S,
    kind: str = "",
    urgent: bool = False,
    marks: bool = False,
    recalls: bool = False,
    writes: bool = False,
    at_once: bool = False,
) -> Callable[[Handler], Handler]:
    """Let a method answer requests of this name; types come from its annotations.

    kind says what a repeated request does, and so what a caller may do that got no answer:

    * safe: it reads, or sets; repeat it at will. It is cancelled when nobody waits any more.
    * keyed: it has one effect per key of a calling node, however often it is asked. Commit the
      effect by `commit(..., reply=value)`, then both are there or neither is; a handler that
      commits otherwise may be cut in between, and then resolve_request() is asked. A reply is
      kept for ten minutes.
    * once: nobody repeats it. The default of what writes; safe is that of all else.

    recalls: a keyed handler tells by records of its own what it has done; its replies are kept
    in memory alone, and after a crash it is simply called again. marks: it acts elsewhere
    than in its own journal, so the key is on disk before it begins. urgent: callers may ask
    for the room that is kept for cancels and mode. An async generator answers in parts.

    An answer waits until all that the node had decided before it is on disk, for it may tell
    of that, and a crash would make it untrue. at_once: it tells of nothing a commit under way
    could still take back, so it is given also while such a commit waits for space.
    writes: it commits; while the disk is full it is refused before it decides anything.
    """
    if kind not in ("", *KINDS) or ((marks or recalls) and kind != "keyed"):
        raise LocalProtocolError(f"{method}: {kind!r} is no kind, or these need a keyed one")
    found = RequestMark(
        method,
        timeout_s,
        writes,
        at_once,
        KINDS[kind or ("once" if writes else "safe")],
        urgent,
        marks,
        recalls,
    )

    def mark(handler: Handler) -> Handler:
        handler.request_mark = found  # type: ignore[attr-defined]  # as above
        return handler

    return mark


@dataclass(frozen=True, slots=True)
class Bound:
    """A handler with what its annotations say."""

    call: Callable[..., Any]
    kind: Any  # type of the payload; None: whatever MessagePack holds
    arguments: int  # 1: payload alone, 2: also EventMeta or the caller's name
    is_async: bool
    streams: bool = False  # it yields
    every_meta: bool = False  # the second parameter wants the EventMeta of each in a batch
    decode: Callable[[bytes], Any] = PLAIN  # a payload


def bind(handler: Callable[..., Any], *, batch: bool = False) -> Bound:
    """Return *handler*, bound to its component, with its payload type; batch: of a list's item."""
    hints = typing.get_type_hints(handler)
    parameters = list(inspect.signature(handler).parameters)
    kind = hints.get(parameters[0], Any) if parameters else type(None)
    if batch:
        kind = next(iter(typing.get_args(kind)), Any)
    payload: Any = None if kind in (Any, object) else kind
    return Bound(
        handler,
        payload,
        len(parameters),
        inspect.iscoroutinefunction(handler),
        inspect.isasyncgenfunction(handler),
        batch and len(parameters) > 1 and typing.get_origin(hints.get(parameters[1])) is list,
        decoder(payload),
    )
