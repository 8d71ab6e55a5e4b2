"""A server of keyed and once methods, killed around the effect of each request.

A keyed effect is there exactly once and its caller ends with the answer. A once effect is there
at most once, and its caller is never told what is not so.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.chaos.process.homes import Home, until

pytestmark = [pytest.mark.system, pytest.mark.slow]

KILLS = 20  # a start takes about a second


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


class Trade:
    """A shop that dies where it is told to, and a buyer, over files."""

    def __init__(self, home: Home, path: Path) -> None:
        self.home, self.fault, self.order = home, path / "fault", path / "order"
        self.start()
        home.up("buyer", "buyer", fault=self.order)

    def start(self) -> None:
        self.home.up("shop", "shop", fault=self.fault)

    def ask(self, method: str, number: int, where: str) -> str:
        """Let the shop be asked and die *where*; return what the buyer was told."""
        done = self.order.with_suffix(".done")
        self.fault.write_text(f"{where} {number}")
        written = self.order.with_suffix(".new")
        written.write_text(f"{method} {number} k{number}")
        written.rename(self.order)
        until(lambda: self.home.nodes["shop"].poll() is not None)
        self.home.kill("shop")
        self.start()
        until(done.exists, 30.0)
        told = done.read_text()
        done.unlink()
        return told


@pytest.mark.timeout(240)
def test_keyed_effects_are_there_once_and_answered_and_once_is_never_told_wrong(
    home: Home, tmp_path: Path
) -> None:
    dice, trade = Random(1), Trade(home, tmp_path)
    sold, paid = [0], dict[int, str]()  # 0: what goes well in between
    for number in range(1, KILLS + 1):
        where = dice.choice(("before", "after"))
        if dice.random() < 0.75:
            sold.append(number)
            assert trade.ask("shop.sell", number, where) == f"{number} answer {-number}"
        else:
            paid[number] = trade.ask("shop.pay", number, where)
    assert Counter(home.recorded("shop", "x.sold.")) == Counter(sold)
    effects = Counter(number for number in home.recorded("shop", "x.paid.") if number)
    assert set(effects.values()) <= {1}
    assert {told.split(maxsplit=1)[1] for told in paid.values()} == {"OUTCOME_UNKNOWN unknown"}
