"""Bundle: plain events that follow at once on one topic travel as one frame.

A frame costs a publisher and a subscriber more than an event in it. So the first event of a
burst is sent at once, and those behind it, of the same topic and cause, are held until the
loop's turn ends, until something else is to be sent, or until the bundle is full. An event
that comes alone is never held. A handler that says two at once and then computes for long lets
the second wait for so long; it should not.

The frame is a plain one, marked BUNDLE: its payload is a MessagePack array of the events'
payloads, its seq is that of the first; the others follow. ts_recv and ts_sent are the first's.

Never here: sockets, sequences of topics (outbound), the taking apart (envelope).
"""

from collections.abc import Callable
from typing import Final

from mesh.protocol.envelope import BUNDLE_MAX, plain_tail

BURST_NS: Final = 20_000  # events of one burst follow each other some 3 us apart
BUNDLE_HEADER_BYTES: Final = 3  # of a MessagePack array of up to BUNDLE_MAX
_SHORT: Final = 16  # elements that fit the one-byte header of a MessagePack array
_HEADERS: Final = tuple(
    bytes([0x90 | count]) if count < _SHORT else b"\xdc" + count.to_bytes(2, "big")
    for count in range(BUNDLE_MAX + 1)
)


class Bundle:
    """Hold the end of a burst; flush() sends it.

    post: sends a frame. later: calls what it is given when the loop's turn ends.
    """

    __slots__ = (
        "_due", "_heads", "_later", "_room", "_seq", "_ts_sent", "head", "last_ns", "payloads",
        "post", "ts_recv",
    )  # fmt: skip

    def __init__(
        self, post: Callable[[bytes], None], later: Callable[[Callable[[], None]], object]
    ) -> None:
        self.post, self._later = post, later
        self.head = b""  # of the frame sent last
        self.last_ns = 0  # when that was
        self.ts_recv = 0  # as its event gave it: another cause, another frame
        self.payloads: list[bytes] = []
        self._heads = b"", b""
        self._seq = self._ts_sent = 0
        self._room = 0  # bytes that the frame may still take
        self._due = False

    def hold(
        self, heads: tuple[bytes, bytes], seq: int, now: int, payload: bytes, room: int
    ) -> None:
        """Hold the next event of the topic that was sent last.

        heads: of its plain frames and of its bundles. room: bytes of payloads in a frame.
        """
        self.last_ns = now
        if self._room < len(payload):
            self.flush()
        if self.payloads:
            self._room -= len(payload)
            self.payloads.append(payload)
            if len(self.payloads) >= BUNDLE_MAX:
                self.flush()
            return
        self._heads, self._seq, self._ts_sent = heads, seq, now
        self._room = room - len(payload)
        self.payloads.append(payload)
        if not self._due:
            self._due = True
            self._later(self._turn_ended)

    def flush(self) -> None:
        """Send what is held, if anything is."""
        payloads = self.payloads
        if not payloads:
            return
        self.payloads = []
        tail = plain_tail(self._seq, self.ts_recv or self._ts_sent, self._ts_sent)
        if len(payloads) == 1:
            self.post(self._heads[0] + tail + payloads[0])
        else:
            self.post(b"".join((self._heads[1], tail, _HEADERS[len(payloads)], *payloads)))

    def _turn_ended(self) -> None:
        self._due = False
        self.flush()
