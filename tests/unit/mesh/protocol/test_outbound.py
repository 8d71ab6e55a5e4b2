"""Outbound: events are numbered per topic, and nobody can miss one without being told."""

from collections.abc import Callable
from itertools import count

import pytest

from mesh.errors import LocalProtocolError
from mesh.protocol import envelope, outbound, topics
from mesh.protocol.bundle import Bundle
from mesh.protocol.control import Head, StreamHead
from mesh.protocol.envelope import EVENT_MAX_BYTES, RPC_MAX_BYTES, TOMBSTONE, Event
from mesh.protocol.outbound import BEACON_HEADS, HEADS_PER_PAGE, Outbound, Voice

NID, RUN, CAP_BYTES = 7, 3, 16 * 1024


def event(topic: str, payload: bytes = b"\x01", flags: int = 0) -> Event:
    return Event(topic, 0x1001, 0, 0, 0, payload, flags, ts_recv=11, ts_sent=12)


def publisher(*names: str, keep: bool = False) -> Outbound:
    out = Outbound(NID, RUN, CAP_BYTES)
    for name in names:
        out.frame(event(name), keep=keep)
    return out


def anyone(prefix: str) -> bool:
    return True


def heads(
    out: Outbound, *prefixes: str, granted: Callable[[str], bool] = anyone
) -> list[tuple[Event, Head]]:
    pages = out.answer(topics.probe(1, prefixes), granted)
    decoded = [envelope.decode_event(page) for page in pages]
    return [(page, envelope.decode_value(page.payload, Head)) for page in decoded]


def test_events_are_numbered_per_topic_from_1() -> None:
    out = Outbound(NID, RUN, CAP_BYTES)
    numbers = []
    for name in ("a", "b", "a", "a"):
        assert out.next_seq(name) == out.heads.get(name, 0) + 1
        frame = envelope.decode_event(out.frame(event(name)))
        numbers.append((frame.nid, frame.epoch, frame.topic, frame.seq))
    assert numbers == [(NID, RUN, *pair) for pair in (("a", 1), ("b", 1), ("a", 2), ("a", 3))]
    assert out.heads == {"a": 3, "b": 1}


def voice(out: Outbound, topic: str, bundle: Bundle, *, keep: bool = False) -> Voice:
    return out.voice(topic, 0x1001, keep=keep, bundle=bundle, now_ns=lambda: 12)


def test_voice_makes_the_same_events_sooner() -> None:
    plain, full = publisher(), publisher()
    for keep in (False, True):
        sent: list[bytes] = []
        bundle = Bundle(sent.append, lambda act: None)
        voices = {topic: voice(plain, topic, bundle, keep=keep) for topic in ("a", "b")}
        for topic in ("a", "b", "a"):
            plain.frame(event("between"))
            full.frame(event("between"))
            voices[topic](1, 11)
            assert sent[-1] == full.frame(event(topic), keep=keep)
    voices["a"](1, 0)
    assert envelope.decode_event(sent[-1]).ts_recv == 12
    full.frame(event("a"), keep=True)
    plain.last_values["a"] = full.last_values["a"]
    assert (plain.heads, plain.last_values) == (full.heads, full.last_values)


def test_refused_event_takes_no_number() -> None:
    out, bundle = publisher("a"), Bundle(lambda frame: None, lambda act: None)
    for refused in (event("a", bytes(CAP_BYTES)), event("Not.a.topic"), event("")):
        with pytest.raises(LocalProtocolError):
            out.frame(refused)
        with pytest.raises(LocalProtocolError):
            voice(out, refused.topic, bundle, keep=True)(refused.payload, 0)
    assert out.heads == {"a": 1}
    assert not out.last_values


def test_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "TOPICS_MAX", 2)
    out = publisher("a", "b")
    with pytest.raises(LocalProtocolError):
        out.frame(event("c"))
    out.frame(event("a"))


@pytest.mark.parametrize("topic", [topics.HEARTBEAT, topics.MODE, topics.VIEW, topics.LOG])
def test_node_that_ran_out_of_topics_still_says_how_it_is(
    topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first heartbeat, and the index of what was already stored, used to be refused."""
    monkeypatch.setattr(outbound, "TOPICS_MAX", 1)
    assert publisher("a").frame(event(topic))


def test_last_value_is_the_newest_until_its_tombstone() -> None:
    out = publisher()
    out.frame(event("a", b"\x01"), keep=True)
    newest = out.frame(event("a", b"\x02"), keep=True)
    out.frame(event("b"))  # not kept
    assert out.last_values == {"a": (2, newest)}
    assert out.snapshot(("",), "") == ((newest,), "")
    out.frame(event("a", flags=TOMBSTONE), keep=True)
    out.frame(event("never.was", flags=TOMBSTONE), keep=True)
    assert out.snapshot(("",), "") == ((), "")


def test_snapshot_comes_in_pages_in_order_of_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "SNAPSHOT_BYTES", 200)
    out = publisher("a.3", "b.1", "a.1", "a.2", "a.4", keep=True)
    names, after = [], ""
    for _ in range(5):
        frames, after = out.snapshot(("a.",), after)
        assert frames
        assert len(frames) == 1 or sum(map(len, frames)) <= 200
        names += [envelope.decode_event(frame).topic for frame in frames]
        if not after:
            break
    assert names == ["a.1", "a.2", "a.3", "a.4"]


def test_snapshot_value_above_the_size_of_a_page_has_one_of_its_own() -> None:
    out = Outbound(NID, RUN, EVENT_MAX_BYTES)
    for name in ("a.1", "a.2"):
        out.frame(event(name, bytes(outbound.SNAPSHOT_BYTES)), keep=True)
    frames, after = out.snapshot(("a.",), "")
    assert (len(frames), after) == (1, "a.1")
    assert sum(map(len, frames)) < RPC_MAX_BYTES


def test_head_answers_its_probe_with_what_was_probed_for() -> None:
    out = publisher("a.x", "a.x", "b.x")
    out.streams = (StreamHead("risk", "log", 1, 9),)
    [(page, head)] = heads(out, "a.", "!hb\0")
    assert page.topic.encode("latin-1") == topics.probe(1, ("a.", "!hb\0"))
    assert (page.nid, page.epoch, page.seq) == (NID, RUN, 0)
    assert head == Head(RUN, 1, 1, {"a.x": 2}, out.streams, (), 0, 1)


def test_head_of_nothing_is_a_page_too() -> None:
    [(_, head)] = heads(publisher())
    assert (head.heads, head.page, head.pages) == ({}, 0, 1)


def test_what_is_no_probe_has_no_answer() -> None:
    assert publisher("a").answer(b"\xff", anyone) == []
    assert publisher("a").answer(b"md.", anyone) == []


def test_a10_prefixes_not_granted_are_denied_and_tell_nothing() -> None:
    out = publisher("a.x", "b.x")
    [(_, head)] = heads(out, "a.", "b.", granted=lambda prefix: prefix.startswith("a."))
    assert (head.heads, head.denied) == ({"a.x": 1}, ("b.",))


def test_a10_probe_for_everything_tells_of_granted_topics_alone() -> None:
    """It used to name every topic to whoever may hear any."""
    out = publisher("a.x", "b.x")
    [(_, head)] = heads(out, granted=lambda prefix: prefix.startswith("a."))
    assert head.heads == {"a.x": 1}


def test_f2_many_topics_come_as_pages() -> None:
    out = publisher(*(f"t.{n}" for n in range(3_000)))
    pages = [head for _, head in heads(out)]
    assert [(head.page, head.pages) for head in pages] == [(0, 2), (1, 2)]
    assert len(pages[0].heads) == HEADS_PER_PAGE
    assert pages[0].heads | pages[1].heads == out.heads


def test_page_of_long_names_is_no_longer_than_a_frame_may_be() -> None:
    """2,000 topics of 190 bytes made a HEAD above the cap: a probe ended the publisher."""
    out = publisher(*(f"{n:04}".rjust(190, "x") for n in range(HEADS_PER_PAGE)))
    pages = heads(out)
    assert len(pages) > 1
    found: dict[str, int] = {}
    for _, head in pages:
        found |= head.heads
    assert found == out.heads


def test_beacon_tells_first_what_moved() -> None:
    out = publisher(*(f"t.{n:03}" for n in range(BEACON_HEADS * 3)))
    for _ in range(8):
        out.beacon()
    out.frame(event("t.299"))
    out.frame(event("t.000"))
    assert out.beacon().items() >= {"t.000": 2, "t.299": 2}.items()


def test_beacon_is_bounded_in_number_and_bytes() -> None:
    assert publisher().beacon() == {}
    assert len(publisher(*(f"t.{n}" for n in range(1_000))).beacon()) == BEACON_HEADS
    long_names = publisher(*(f"{n:03}".rjust(190, "x") for n in range(100))).beacon()
    assert 5 < len(long_names) < BEACON_HEADS
    assert len(envelope.encode_value(long_names)) <= publisher().cap_bytes // 2


def test_heartbeat_with_many_long_topics_fits_a_durable_frame() -> None:
    """Heads of 8 KiB did not, on the durable plane, and a heartbeat ended its node."""
    out = Outbound(7, 11, 4 * 1024)
    for number in range(100):
        out.frame(event(f"t.{number:02}" + "字" * 60))
    told = out.beacon()
    assert told
    assert len(envelope.encode_value(told)) <= out.cap_bytes // 2


def test_f11_beacons_tell_every_lost_tail_within_a_few() -> None:
    """300 topics move once: 200 of them used to pass for told, and were not."""
    out = publisher(*(f"t.{n}" for n in range(300)))
    told: dict[str, int] = {}
    for _ in range(4):
        told |= out.beacon()
    assert told == out.heads


def test_f11_what_does_not_move_is_told_again_and_again() -> None:
    """The beacon that told it first may have been lost with the event."""
    out = publisher(*(f"t.{n}" for n in range(300)))
    for _ in range(4):
        out.beacon()
    for _ in range(2):
        told: dict[str, int] = {}
        for _ in range(3):
            told |= out.beacon()
        assert told == out.heads


def test_f11_topic_that_has_fallen_silent_is_told_among_ever_so_many_that_move() -> None:
    """What always moved used to fill every beacon: the silent one's lost end never showed."""
    busy = [f"busy.{n}" for n in range(BEACON_HEADS * 2)]
    out = publisher(*busy, "silent")
    seen = 0
    for beacons in count():
        for name in busy:
            out.frame(event(name))
        seen += "silent" in out.beacon()
        if seen == 2:  # the first may have been lost as well
            break
        assert beacons < 20


def test_f11_every_busy_topic_is_told_in_its_turn() -> None:
    busy = [f"busy.{n}" for n in range(BEACON_HEADS * 3)]
    out, told = publisher(*busy), set[str]()
    for _ in range(4):
        for name in busy:
            out.frame(event(name))
        told |= out.beacon().keys()
    assert told == set(busy)
