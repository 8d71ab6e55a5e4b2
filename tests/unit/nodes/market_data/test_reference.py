import pytest

from mesh.errors import Invalid
from nodes.market_data.reference import Registry, make_instrument, split_symbol


@pytest.mark.parametrize(
    ("symbol", "base", "quote"),
    [
        ("BTCUSDT", "BTC", "USDT"),
        ("ETHBTC", "ETH", "BTC"),
        ("BTCFDUSD", "BTC", "FDUSD"),
        ("1INCHUSDT", "1INCH", "USDT"),
    ],
)
def test_symbols_split_at_the_longest_quote(symbol: str, base: str, quote: str) -> None:
    assert split_symbol(symbol) == (base, quote)


@pytest.mark.parametrize(
    "symbol",
    ["", "USDT", "BTCXYZ", "BTC/USDT", "../USDT", "\uff22USDT", "A" * 30 + "USDT"],
)
def test_unknown_spellings_are_refused(symbol: str) -> None:
    with pytest.raises(Invalid):
        split_symbol(symbol)


def test_spot_and_perpetual_are_different_instruments() -> None:
    spot = make_instrument("BTCUSDT", "BINANCE", perpetual=False)
    perpetual = make_instrument("BTCUSDT", "BINANCE", perpetual=True)
    assert (spot.symbol, spot.kind) == ("BTC-USDT.BINANCE", "SPOT")
    assert (perpetual.symbol, perpetual.kind) == ("BTC-USDT-PERP.BINANCE", "LINEAR")
    assert str(spot.tick) == "0.01"


def test_registry_learns_a_symbol_when_first_seen() -> None:
    registry = Registry("SYNTHETIC")
    assert registry.instruments == []
    found = registry.find("ETHUSDT")
    assert found.symbol == "ETH-USDT.SYNTHETIC"
    assert registry.find("ETHUSDT") is found
    assert registry.instruments == [found]
