import json
from collections.abc import Iterator
from decimal import Decimal
from itertools import islice, takewhile

import pytest

from nodes.domain.market import Quarantined, Quote
from nodes.market_data.book import LIVE
from nodes.market_data.frame import Frame
from nodes.market_data.normalize import Normalizer
from nodes.market_data.reference import Registry
from nodes.market_data.sources.synthetic import Synthetic, levels, merged, price, quantity

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def market(seed: int = 7, symbol: str = "BTCUSDT", rate: int = 200) -> Synthetic:
    return Synthetic(symbol, seed=seed, start_ns=START, start_ticks=6_123_400, events_per_s=rate)


def lasting(seconds: int, source: Synthetic) -> Iterator[Frame]:
    end = START + seconds * SECOND
    return takewhile(lambda frame: frame.recv_ns < end, source.frames())


def test_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    first, second, other = (list(islice(market(s).frames(), 500)) for s in (7, 7, 8))
    assert first == second
    assert first != other


@pytest.mark.parametrize("seed", range(3))
def test_every_frame_is_believed_and_the_book_agrees_with_the_quotes(seed: int) -> None:
    normalizer = Normalizer(Registry("SYNTHETIC"), futures=False)
    told = 0
    for frame in lasting(12, market(seed)):
        step = normalizer.step(frame)
        assert not isinstance(step.message.value, Quarantined)
        told += len(step.applied)
    (book,) = normalizer.books.values()
    book.check()
    assert (book.state, book.gaps, book.crossings) == (LIVE, 0, 0)
    assert told == book.applied > 100
    assert len(book.bids.prices) == len(book.asks.prices) == 50


def test_quote_at_a_diffs_id_is_the_books_top() -> None:
    normalizer = Normalizer(Registry("SYNTHETIC"), futures=False)
    compared = 0
    last: Quote | None = None
    for frame in lasting(20, market()):
        step = normalizer.step(frame)
        if isinstance(step.message.value, Quote):
            last = step.message.value
        for book in (step.book,):
            if book is not None and last is not None and last.update_id == book.last_id:
                top = book.top(1)
                assert (top.bids[0][0], top.asks[0][0]) == (last.bid, last.ask)
                compared += 1
    assert compared > 50


@pytest.mark.parametrize("rate", [50, 200, 1_000])
def test_rate_is_about_what_was_asked_for(rate: int) -> None:
    frames = sum(1 for _ in lasting(10, market(rate=rate)))
    assert 0.6 * rate <= frames / 10 <= 1.4 * rate


def test_price_moves_enough_to_trade_on_and_stays_plausible() -> None:
    prices = [
        Decimal(json.loads(frame.raw)["data"]["p"])
        for frame in lasting(60, market())
        if b'"e":"trade"' in frame.raw
    ]
    assert len(prices) > 1_000
    assert Decimal(20) < max(prices) - min(prices) < Decimal(2_000)


def test_snapshot_comes_after_the_first_diffs_and_again_when_wanted() -> None:
    source = market()
    frames = source.frames()
    kinds = [b"lastUpdateId" in frame.raw for frame in islice(frames, 400)]
    assert sum(kinds) == 1
    source.want_snapshot()
    assert any(b"lastUpdateId" in frame.raw for frame in islice(frames, 200))


def test_symbols_are_merged_by_time() -> None:
    frames = list(islice(merged([market(1), market(2, "ETHUSDT")]), 300))
    assert [f.recv_ns for f in frames] == sorted(f.recv_ns for f in frames)
    assert {f.origin for f in frames} == {"BTCUSDT", "ETHUSDT"}


def test_ids_grow_over_restarts() -> None:
    first = json.loads(list(lasting(3, market()))[-1].raw)["data"]
    later = Synthetic(
        "BTCUSDT", seed=7, start_ns=START + 3 * SECOND, start_ticks=6_123_400, events_per_s=200
    )
    diff = next(f for f in later.frames() if b"depthUpdate" in f.raw)
    assert json.loads(diff.raw)["data"]["U"] > first["u"]


def test_integers_are_written_as_the_venue_does() -> None:
    assert price(6_183_763) == "61837.63000000"
    assert quantity(2_000) == "0.02000000"
    assert levels([(100, 5)]) == '[["1.00000000","0.00005000"]]'
