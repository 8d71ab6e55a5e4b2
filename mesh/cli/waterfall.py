"""Waterfall: what led to an order and what became of it, read from the journals on disk.

Every record tells of its trace and its cause, so all that belongs together is found without
asking anybody: it works while nodes, or all of them, are down.

Never here: printing; knowledge of payloads beyond the places of a few fields.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from mesh.errors import RemoteProtocolError
from mesh.protocol import envelope
from mesh.protocol.cause import Cause, root_trace
from mesh.protocol.envelope import Event
from mesh.runtime.planes import JOURNALS
from mesh.runtime.settings import Paths
from mesh.storage.reader import Reader


class Hop(NamedTuple):
    """A step on the way of an order. t_ns: UTC."""

    node: str
    what: str
    t_ns: int


class Told(NamedTuple):
    """Where records of a kind name their order, what they say of it, and where the intent is."""

    order: Callable[[Any], object]
    words: Callable[[Any], str]
    intent: Callable[[Any], list[Any]] | None = None


# Fields are only ever appended, so their places stay; see nodes/domain/orders.py.
TELLS: Final[dict[str, Told]] = {
    "risk.decision.": Told(
        lambda it: it[0], lambda it: "approved" if it[2] else f"denied {it[3]}: {it[4]}"
    ),
    "order.": Told(lambda it: it[1][0][0], lambda it: f"{it[0]} {it[1][1]}", lambda it: it[1][0]),
    "fill.": Told(lambda it: it[2], lambda it: f"{it[6]} {it[8]} at {it[7]}"),
    "venue.intent.": Told(lambda it: it[0], lambda it: f"{it[5]} {it[7]} {it[4]}", list),
    "venue.report.": Told(lambda it: it[1], lambda it: f"{it[0]} {it[3]}".rstrip()),
}
_STRATEGY, _SIDE, _QUANTITY, _INSTRUMENT, _CREATED = 1, 5, 7, 4, 13  # of an intent


class Entry(NamedTuple):
    """A record of a node's journal; told, payload: if it is about an order."""

    node: str
    event: Event
    told: Told | None
    payload: Any

    @property
    def about(self) -> object:
        """Return the order that it names."""
        try:
            return self.told.order(self.payload) if self.told is not None else None
        except (LookupError, TypeError):
            return None  # of another shape

    @property
    def hop(self) -> Hop:
        """Return what people see of it."""
        words = "" if self.told is None else " " + self.told.words(self.payload)
        return Hop(self.node, self.event.topic + words, self.event.ts_sent)


def waterfall(paths: Paths, cluster: str, order: str) -> list[Hop]:
    """Return the hops of *order*, the oldest first; none if no journal names it.

    Raises StorageError for a journal that cannot be trusted.
    """
    found = [entry for entry in entries(paths, order.encode()) if entry.about == order]
    if not found:
        return []
    found.sort(key=lambda entry: entry.event.ts_sent)
    before = list(leading_to(paths, found[0].event))
    names = {envelope.node_id(cluster, name): name for name in nodes(paths)}
    hops = [
        *roots([*before, *found], names),
        *(entry.hop for entry in before),
        *wish(found, names),
        *(entry.hop for entry in found),
    ]
    return sorted(hops, key=lambda hop: hop.t_ns)


def journals(paths: Paths) -> list[Path]:
    """Return the journals of this mesh, whether their nodes run or not."""
    return sorted((paths.state / JOURNALS).glob("*.sqlite3"))


def nodes(paths: Paths) -> set[str]:
    """Return the names of all nodes that ever ran here."""
    return {file.name for file in (paths.state / "epochs").glob("*")}


def entries(paths: Paths, needle: bytes) -> Iterator[Entry]:
    """Yield every record of which some bytes are *needle*: most need no decoding."""
    for path in journals(paths):
        with closing(Reader(path)) as reader:
            for stored in reader.read():
                if needle in stored.frame:
                    yield entry(path.stem, envelope.decode_event(stored.frame))


def entry(node: str, event: Event) -> Entry:
    """Return a record taken apart as far as we know it."""
    told = next((told for prefix, told in TELLS.items() if event.topic.startswith(prefix)), None)
    try:
        payload = None if told is None else envelope.decode_value(event.payload)
    except RemoteProtocolError:
        told = payload = None
    return Entry(node, event, told, payload)


def leading_to(paths: Paths, first: Event) -> Iterator[Entry]:
    """Yield what belongs to the same trace, came before and is about no order."""
    if first.cause is not None:
        trace = first.cause.trace
        for found in entries(paths, trace.to_bytes(8)):
            event = found.event
            ours = event.cause is not None and event.cause.trace == trace
            if ours and found.told is None and event.ts_sent <= first.ts_sent:
                yield found


def roots(found: list[Entry], names: dict[int, str]) -> Iterator[Hop]:
    """Yield the events with which the traces began; no journal has them."""
    begun: dict[int, Hop] = {}
    for _, event, *_ in found:
        cause = event.cause
        if cause is None:
            continue
        unnamed = Hop("", "first cause", event.ts_recv)
        if is_root(cause):
            begun[cause.trace] = Hop(names.get(cause.nid, ""), cause.name, event.ts_recv)
        elif event.ts_recv != event.ts_sent:  # else the trace begins with a request to its node
            begun.setdefault(cause.trace, unnamed)
    yield from begun.values()


def is_root(cause: Cause) -> bool:
    """Say whether a cause is itself an event without a cause."""
    return root_trace(cause.nid, cause.epoch, cause.number, cause.name) == cause.trace


def wish(found: list[Entry], names: dict[int, str]) -> Iterator[Hop]:
    """Yield the strategy's intent, as others keep it; its node is the one that asked risk."""
    asked = (e.event.cause for e in found if e.event.topic.startswith("risk.decision."))
    caller = next((names.get(cause.nid) for cause in asked if cause is not None), None)
    for told in found:
        if told.told is not None and told.told.intent is not None:
            intent = told.told.intent(told.payload)
            what = f"intent {intent[_SIDE]} {intent[_QUANTITY]} {intent[_INSTRUMENT]}"
            yield Hop(caller or f"strategy.{intent[_STRATEGY]}", what, intent[_CREATED])
            return
