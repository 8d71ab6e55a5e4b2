"""Sync: a link comes to be live, doubts silence, asks again, gives up and begins anew."""

from collections.abc import Callable
from itertools import count

import pytest

from mesh.protocol import topics
from mesh.protocol.control import Head
from mesh.protocol.sequence import DELIVER, EARLY, STALE, UNWANTED, Gap
from mesh.protocol.sync import (
    BAD,
    BAD_S,
    BAD_S_MAX,
    HEAD_TIMEOUT_S,
    IDLE,
    LIVE,
    SILENT_S,
    SYNCING,
    TRIES,
    UNSURE,
    Close,
    Effect,
    LinkState,
    LinkSync,
    Live,
    Open,
    Probe,
    Subscribe,
    Unsubscribe,
)

RUN = 5


def head(epoch: int = RUN, heads: dict[str, int] | None = None, **more: int) -> Head:
    wire_min, wire_max = more.pop("wire_min", 1), more.pop("wire_max", 1)
    return Head(epoch, wire_min, wire_max, heads or {}, **more)  # type: ignore[arg-type]


def link(*prefixes: str) -> LinkSync:
    """Return a link that wants *prefixes* and was opened at time 0."""
    sync = LinkSync(count(1).__next__)
    assert sync.want(set(prefixes or {"a."}), 0.0) == [Open()]
    sync.opened(0.0)
    return sync


def live(*prefixes: str) -> LinkSync:
    sync = link(*prefixes)
    sync.head(head(heads={"a.x": 10}), sync.probe, 0.0)
    return sync


def at(state: LinkState) -> LinkSync:
    """Return a link in *state*, where it came to at time 0."""
    if state is IDLE:
        return LinkSync(count(1).__next__)
    if state is SYNCING:
        return link()
    sync = live()
    if state is UNSURE:
        sync.tick(-HEAD_TIMEOUT_S)  # see the frames so far
        sync._since = -SILENT_S
        sync.tick(0.0)
    if state is BAD:
        sync.head(head(wire_min=9, wire_max=9), sync.probe, 0.0)
    assert sync.state is state
    return sync


def kinds(effects: list[Effect]) -> list[type]:
    return [type(effect) for effect in effects]


def quiet(sync: LinkSync) -> list[Effect]:
    """Tick when the link is due, without a frame since; a first tick sees those before."""
    sync.tick(0.0)
    return sync.tick(sync.next_deadline() or 100.0)


def noisy(sync: LinkSync) -> list[Effect]:
    sync.frame(RUN, "a.x", 11)
    return sync.tick(0.5)


INPUTS: dict[str, Callable[[LinkSync], list[Effect]]] = {
    "want more": lambda s: s.want({"b."}, 0.0),
    "want the same": lambda s: s.want(set(s.prefixes), 0.0),
    "drop": lambda s: s.drop("a."),
    "drop what is not wanted": lambda s: s.drop("z."),
    "opened": lambda s: s.opened(0.0),
    "again": lambda s: s.again(0.0),
    "moved": lambda s: s.moved(),
    "HEAD": lambda s: s.head(head(), s.probe, 0.0),
    "HEAD of a newer run": lambda s: s.head(head(6), s.probe, 0.0),
    "HEAD of an older run": lambda s: s.head(head(4), s.probe, 0.0),
    "HEAD of another probe": lambda s: s.head(head(), b"\xffother", 0.0),
    "HEAD of another wire": lambda s: s.head(head(wire_min=2, wire_max=3), s.probe, 0.0),
    "time, silence": quiet,
    "time, a frame": noisy,
}
SUBSCRIBED_ANEW: list[type] = [Subscribe, Probe]
# What is not listed leaves the state as it is and asks for nothing.
TABLE: dict[tuple[LinkState, str], tuple[LinkState, list[type]]] = {
    (IDLE, "want more"): (IDLE, [Open]),
    (IDLE, "opened"): (SYNCING, [Probe]),
    (SYNCING, "want more"): (SYNCING, SUBSCRIBED_ANEW),
    (SYNCING, "drop"): (SYNCING, [Unsubscribe]),
    (SYNCING, "opened"): (SYNCING, SUBSCRIBED_ANEW),
    (SYNCING, "moved"): (SYNCING, [Open]),
    (SYNCING, "again"): (SYNCING, [Probe]),
    (SYNCING, "HEAD"): (LIVE, [Live]),
    (SYNCING, "HEAD of a newer run"): (LIVE, [Live]),
    (SYNCING, "HEAD of an older run"): (LIVE, [Live]),  # older than what is not known yet
    (SYNCING, "HEAD of another wire"): (BAD, [Close]),
    (SYNCING, "time, silence"): (SYNCING, [Probe]),
    (LIVE, "want more"): (LIVE, SUBSCRIBED_ANEW),
    (LIVE, "drop"): (LIVE, [Unsubscribe]),
    (LIVE, "opened"): (SYNCING, SUBSCRIBED_ANEW),
    (LIVE, "moved"): (LIVE, [Open]),
    (LIVE, "again"): (LIVE, [Probe]),
    (LIVE, "HEAD"): (LIVE, [Live]),
    (LIVE, "HEAD of a newer run"): (LIVE, [Live]),
    (LIVE, "HEAD of another wire"): (BAD, [Close]),
    (LIVE, "time, silence"): (UNSURE, []),
    (UNSURE, "want more"): (UNSURE, SUBSCRIBED_ANEW),
    (UNSURE, "drop"): (UNSURE, [Unsubscribe]),
    (UNSURE, "opened"): (SYNCING, SUBSCRIBED_ANEW),
    (UNSURE, "moved"): (UNSURE, [Open]),
    (UNSURE, "again"): (UNSURE, [Probe]),
    (UNSURE, "HEAD"): (LIVE, [Live]),
    (UNSURE, "HEAD of a newer run"): (LIVE, [Live]),
    (UNSURE, "HEAD of another wire"): (BAD, [Close]),
    (UNSURE, "time, silence"): (UNSURE, [Probe]),
    (UNSURE, "time, a frame"): (LIVE, []),
    (BAD, "opened"): (SYNCING, SUBSCRIBED_ANEW),
    (BAD, "moved"): (BAD, [Open]),
    (BAD, "time, silence"): (BAD, [Open]),
}


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("state", LinkState, ids=lambda state: state.name)
def test_table(state: LinkState, given: str) -> None:
    sync = at(state)
    effects = INPUTS[given](sync)
    assert (sync.state, kinds(effects)) == TABLE.get((state, given), (state, []))
    sync.check()


def test_story() -> None:
    sync = LinkSync(count(1).__next__)
    assert sync.want({"b.", "a."}, 0.0) == [Open()]
    first = topics.probe(1, {"a.", "b."})
    assert sync.opened(0.0) == [Subscribe("a."), Subscribe("b."), Probe(first, b"")]
    assert sync.frame(RUN, "a.x", 7) == (EARLY, None)
    answer = head(heads={"a.x": 7})
    assert sync.head(answer, first, 0.1) == [Live(answer, began=True)]
    assert sync.frame(RUN, "a.x", 8) == (DELIVER, None)
    assert sync.frame(RUN, "a.x", 11) == (DELIVER, Gap("a.x", 9, 10))
    second = topics.probe(2, {"a.", "b.", "c."})
    assert sync.want({"c."}, 0.2) == [Subscribe("c."), Probe(second, first)]
    assert sync.head(head(heads={"a.x": 99}), first, 0.3) == []  # of the probe replaced
    answer = head(heads={"a.x": 12, "c.x": 5, "not.ours": 1})
    assert sync.head(answer, second, 0.3) == [Gap("a.x", 12, 12), Live(answer, began=False)]
    assert sync.beacon(RUN, {"a.x": 13, "not.ours": 9}) == [Gap("a.x", 13, 13)]


def test_silent_link_is_doubted_then_asked_then_given_up_then_opened_anew() -> None:
    sync, now, seen = live(), 0.0, []
    sync.tick(now)
    while sync.state is not SYNCING:
        now = sync.next_deadline() or 0.0
        for effect in sync.tick(now):
            seen.append((now, sync.state, type(effect)))
            if isinstance(effect, Open):
                sync.opened(now)
        sync.check()
    given_up = SILENT_S + TRIES * HEAD_TIMEOUT_S
    assert seen == [
        (SILENT_S + HEAD_TIMEOUT_S, UNSURE, Probe),
        (SILENT_S + 2 * HEAD_TIMEOUT_S, UNSURE, Probe),
        (given_up, BAD, Close),
        (given_up + BAD_S, BAD, Open),
    ]


def test_link_that_stays_bad_is_opened_ever_more_rarely() -> None:
    sync, now, pauses = link(), 0.0, []
    for _ in range(7):
        while sync.state is not BAD:
            sync.tick(now := sync.next_deadline() or 0.0)
        due = sync.next_deadline() or 0.0
        assert sync.tick(due - 0.01) == []
        assert sync.tick(due) == [Open()]
        pauses.append(due - now)
        sync.opened(now := due)
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, BAD_S_MAX, BAD_S_MAX]
    sync.head(head(), sync.probe, now)
    assert sync.bad == 0


def test_frames_that_go_on_keep_a_link_live() -> None:
    sync, now = live(), 0.0
    for seq in range(11, 20):
        sync.frame(RUN, "a.x", seq)
        now = sync.next_deadline() or 0.0
        assert sync.tick(now) == []
        assert sync.state is LIVE


def test_frame_of_a_newer_run_waits_for_its_head() -> None:
    """F4: a restart heard before libzmq has said a word."""
    sync = live()
    old = sync.probe
    assert sync.frame(6, "a.x", 1) == (EARLY, None)
    assert sync.frame(RUN, "a.x", 11) == (STALE, None)
    [effect] = sync.tick(0.2)
    assert (sync.state, effect) == (SYNCING, Probe(sync.probe, old))
    answer = head(6, {"a.x": 1})
    assert sync.head(answer, sync.probe, 0.3) == [Live(answer, began=True)]
    assert sync.frame(6, "a.x", 2) == (DELIVER, None)


def test_head_comes_by_itself_after_a_reconnection() -> None:
    """F3: the probe is a subscription, so libzmq sends it again."""
    sync = live()
    answer = head(6, {"a.x": 3})
    assert sync.head(answer, sync.probe, 9.0) == [Live(answer, began=True)]
    assert sync.head(head(RUN, {"a.x": 99}), sync.probe, 9.1) == []
    assert sync.tracker.stale == 1


def test_head_counts_only_when_all_its_pages_are_here() -> None:
    sync = link()
    pages = [head(heads={f"a.{n}": n}, page=n, pages=3) for n in range(3)]
    assert sync.head(pages[0], sync.probe, 0.0) == []
    assert sync.head(pages[2], sync.probe, 0.0) == []  # 1 was lost
    assert sync.head(pages[0], sync.probe, 0.1) == []
    assert sync.head(pages[1], sync.probe, 0.1) == []
    assert kinds(sync.head(pages[2], sync.probe, 0.1)) == [Live]
    assert sync.tracker.expected == {"a.0": 1, "a.1": 2, "a.2": 3}


def test_pages_of_two_runs_make_no_head() -> None:
    """Heads of the older run would have passed for the newer: its frames were then copies."""
    sync = link()
    assert sync.head(head(RUN, {"a.x": 99}, page=0, pages=2), sync.probe, 0.0) == []
    assert sync.head(head(6, {"a.y": 1}, page=1, pages=2), sync.probe, 0.0) == []
    assert sync.state is SYNCING


def test_pages_of_two_probes_make_no_head() -> None:
    sync = link()
    sync.head(head(heads={"a.x": 1}, page=0, pages=2), sync.probe, 0.0)
    sync.again(0.1)
    assert sync.head(head(heads={"a.y": 1}, page=1, pages=2), sync.probe, 0.2) == []


@pytest.mark.parametrize("pages", [0, -1])
def test_head_without_pages_is_never_complete(pages: int) -> None:
    sync = link()
    assert sync.head(head(page=0, pages=pages), sync.probe, 0.0) == []
    assert sync.head(head(page=-1, pages=pages), sync.probe, 0.0) == []
    sync.check()


def test_head_of_run_0_makes_nothing_live() -> None:
    """Runs count from 1; the link used to be LIVE with no run."""
    sync = link()
    assert sync.head(head(0), sync.probe, 0.0) == []
    assert sync.state is SYNCING
    sync.check()


def test_dropping_one_topic_exactly_keeps_those_whose_names_begin_so() -> None:
    sync = link("a.BTC-USD\0", "a.BTC-USDT\0")
    sync.head(head(heads={"a.BTC-USD": 7, "a.BTC-USDT": 7}), sync.probe, 0.0)
    assert sync.drop("a.BTC-USD\0") == [Unsubscribe("a.BTC-USD\0")]
    assert sync.frame(RUN, "a.BTC-USDT", 8) == (DELIVER, None)


def test_dropping_a_prefix_inside_another_makes_no_gap() -> None:
    """What the wider prefix still heard used to begin at 1 again."""
    sync = live("a.", "a.x\0")
    sync.drop("a.x\0")
    assert sync.frame(RUN, "a.x", 11) == (DELIVER, None)


def test_what_is_still_on_its_way_when_its_topic_is_dropped_is_unwanted() -> None:
    sync = live("a.", "b.")
    sync.drop("a.")
    assert sync.frame(RUN, "a.x", 11) == (UNWANTED, None)
    assert sync.beacon(RUN, {"a.x": 12}) == []


def test_prefixes_that_are_denied_are_not_waited_for() -> None:
    sync = link("a.", "b.")
    sync.head(Head(RUN, 1, 1, {"a.x": 1}, (), ("b.",)), sync.probe, 0.0)
    assert sync.denied == ("b.",)
    assert sync.beacon(RUN, {"a.x": 2, "b.x": 9}) == [Gap("a.x", 2, 2)]


def test_prefixes_wanted_while_bad_are_subscribed_with_the_new_socket() -> None:
    sync = at(BAD)
    assert sync.want({"b."}, 0.0) == []
    assert sync.drop("a.") == []
    assert sync.opened(1.0)[0] == Subscribe("b.")


def test_idle_link_is_never_due() -> None:
    sync = LinkSync(count(1).__next__)
    assert sync.next_deadline() is None
    sync.frame(RUN, "a.x", 1)
    assert sync.tick(9.0) == []
    assert sync.state is IDLE


@pytest.mark.parametrize("began", [0.0, 0.1, 0.7, 1e9 + 0.3])
def test_tick_at_the_deadline_is_no_moment_too_early(began: float) -> None:
    """Rounding used to leave nothing to do at the deadline: simulated time stood still."""
    sync = LinkSync(count(1).__next__)
    sync.want({"a."}, began)
    sync.opened(began)
    for _ in range(20):
        due = sync.next_deadline() or 0.0
        before = (sync.state, sync.tries)
        effects = sync.tick(due)
        assert effects or (sync.state, sync.tries) != before
        if Open() in effects:
            sync.opened(due)
