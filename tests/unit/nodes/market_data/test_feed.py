import json
from collections import Counter
from decimal import Decimal
from itertools import islice
from typing import Any

import msgspec
import pytest

from mesh.errors import Invalid, NotFound
from nodes.domain.market import BookDelta, BookSnapshot, FeedState, FeedStatus, Quarantined
from nodes.market_data.feed import Feed, Publication, parts
from nodes.market_data.frame import Frame
from nodes.market_data.reference import Registry
from nodes.market_data.sources.synthetic import Synthetic

START = 1_700_000_000_000_000_000
BTC = "BTC-USDT.SYNTHETIC"


def make_feed() -> Feed:
    return Feed(
        Registry("SYNTHETIC"),
        futures=False,
        buffer_diffs=100,
        depth_interval_s=0.1,
        snapshot_wait_s=10.0,
        stale_after_s=5.0,
    )


def market_frames(count: int) -> list[Frame]:
    market = Synthetic("BTCUSDT", seed=7, start_ns=START, start_ticks=6_123_400, events_per_s=200)
    return list(islice(market.frames(), count))


def play(feed: Feed, frames: list[Frame]) -> list[Publication]:
    told: list[Publication] = []
    for frame in frames:
        told += feed.handle(frame, frame.recv_ns / 1e9)
    return told


def frame(channel: str, **data: Any) -> Frame:
    body = {"stream": f"btcusdt@{channel}", "data": {"s": "BTCUSDT", **data}}
    return Frame(START, json.dumps(body).encode())


def diff(first: int, last: int) -> Frame:
    levels = {"b": [["100", "1"]], "a": [["101", "1"]]}
    return frame("depth@100ms", U=first, u=last, E=START // 1_000_000, **levels)


def snapshot(update_id: int) -> Frame:
    levels = {"bids": [["100", "1"]], "asks": [["101", "1"]]}
    return frame("snapshot", lastUpdateId=update_id, **levels)


def quote(update_id: int, bid: str = "100") -> Frame:
    return frame("bookTicker", u=update_id, b=bid, B="1", a="101", A="1")


def states(told: list[Publication]) -> list[tuple[str, FeedState, str]]:
    return [(v.channel, v.state, v.reason) for _, v in told if isinstance(v, FeedStatus)]


def test_instruments_are_told_first_and_once() -> None:
    feed = make_feed()
    assert [topic for topic, _ in feed.start(("BTCUSDT",))] == [f"md.instrument.{BTC}"]
    assert all(not topic.startswith("md.instrument") for topic, _ in play(feed, [quote(1)]))


def test_unknown_symbol_refuses_to_start() -> None:
    with pytest.raises(Invalid):
        make_feed().start(("WHATEVER",))


def test_instrument_of_a_capture_is_told_at_first_sight() -> None:
    told = play(make_feed(), [quote(1)])
    assert [topic for topic, _ in told] == [
        *(f"md.instrument.{BTC}", f"md.status.{BTC}.quote", f"md.quote.{BTC}")
    ]


def test_synthetic_market_fills_every_topic() -> None:
    told = Counter(topic.split(".")[1] for topic, _ in play(make_feed(), market_frames(800)))
    assert {"instrument", "status", "quote", "trade", "book", "depth"} == set(told)
    assert told["book"] >= told["depth"] > 5


def test_unchanged_quotes_are_dropped() -> None:
    told = play(make_feed(), [quote(1), quote(2), quote(3, "99"), quote(4, "100")])
    assert sum(topic.startswith("md.quote") for topic, _ in told) == 3


def test_refused_frames_are_published_and_counted() -> None:
    feed = make_feed()
    ((topic, value),) = play(feed, [Frame(START, b"?")])
    assert topic == "md.quarantine.SYNTHETIC"
    assert isinstance(value, Quarantined)
    assert feed.refused == {"DECODE": 1}


def test_book_is_published_only_while_live() -> None:
    feed = make_feed()
    assert feed.wanted() == []
    told = play(feed, [diff(1, 5)])
    assert states(told) == [("book", FeedState.SYNCING, "")]
    assert feed.wanted() == ["BTCUSDT"]
    with pytest.raises(NotFound):
        feed.snapshot(BTC)
    told = play(feed, [snapshot(5)])
    assert states(told) == [("book", FeedState.LIVE, "")]
    assert feed.wanted() == []
    assert feed.snapshot(BTC).update_id == 5
    told = play(feed, [diff(9, 10)])
    assert states(told) == [("book", FeedState.RESYNCING, "GAP")]
    assert [topic for topic, _ in told] == [f"md.status.{BTC}.book"]


def test_depth_is_told_at_most_every_interval_and_the_last_one_always() -> None:
    feed = make_feed()
    feed.handle(snapshot(0), 0.0)
    told = [
        publication
        for number in range(1, 10)
        for publication in feed.handle(diff(number, number), number / 100)
    ]
    assert not any(topic.startswith("md.depth") for topic, _ in told)
    assert feed.tick(0.095, START) == []
    ((topic, value),) = feed.tick(0.11, START)
    assert topic == f"md.depth.{BTC}"
    assert isinstance(value, BookSnapshot)
    assert value.update_id == 9
    assert feed.tick(0.5, START) == []


def test_book_without_snapshot_is_down_after_a_while_and_lives_when_it_comes() -> None:
    feed = make_feed()
    feed.handle(diff(1, 5), 0.0)
    feed.handle(diff(6, 7), 9.0)
    assert feed.tick(9.9, START) == []
    assert states(feed.tick(10.1, START)) == [("book", FeedState.DOWN, "NO_SNAPSHOT")]
    assert feed.handle(diff(8, 9), 10.2) == []
    assert feed.tick(11.0, START) == []
    assert states(feed.handle(snapshot(8), 12.0))[0] == ("book", FeedState.LIVE, "")


def test_silent_channel_is_stale_once_and_live_again() -> None:
    feed = make_feed()
    feed.handle(quote(1), 0.0)
    assert feed.tick(4.9, START) == []
    assert states(feed.tick(5.1, START)) == [("quote", FeedState.STALE, "SILENT")]
    assert feed.tick(9.0, START) == []
    assert states(feed.handle(quote(2), 9.5)) == [("quote", FeedState.LIVE, "")]


def test_lost_source_makes_everything_down_and_books_invalid() -> None:
    feed = make_feed()
    play(feed, [quote(1), snapshot(5)])
    told = states(feed.lose("CLOSED", START))
    assert told == [("quote", FeedState.DOWN, "CLOSED"), ("book", FeedState.DOWN, "CLOSED")]
    assert feed.wanted() == []
    with pytest.raises(NotFound):
        feed.snapshot(BTC)
    play(feed, [diff(9, 10)])
    assert feed.wanted() == ["BTCUSDT"]


@pytest.mark.parametrize(("bids", "asks"), [(1, 0), (90, 90), (181, 0), (0, 400), (650, 650)])
def test_large_diffs_are_told_in_parts_that_fit_an_event(bids: int, asks: int) -> None:
    widest = Decimal("9" * 20 + "." + "9" * 18)
    level = (widest, widest)
    whole = BookDelta("X" * 40, 1, 2, 0, (level,) * bids, (level,) * asks, START, START)
    told = parts(whole)
    assert all(len(msgspec.msgpack.encode(part)) < 16_000 for part in told)
    assert all((part.first_id, part.last_id) == (1, 2) for part in told)
    assert sum(len(part.bids) for part in told) == bids
    assert sum(len(part.asks) for part in told) == asks


def test_same_frames_same_publications() -> None:
    first, second = (play(make_feed(), market_frames(500)) for _ in range(2))
    assert first == second


def test_instruments_are_answered() -> None:
    feed = make_feed()
    play(feed, [quote(1)])
    assert [one.symbol for one in feed.instruments()] == [BTC]
