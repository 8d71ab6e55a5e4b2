"""F30: a server of requests is told to end, told twice, and killed while it drains, under load."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from tests.chaos.process.homes import Home, until

pytestmark = [pytest.mark.system, pytest.mark.slow]

SHOPS = ("shop1", "shop2")
DRAIN_MAX_S = 12.0


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    (tmp_path / "died").mkdir()
    yield home
    home.close()


def open_shop(home: Home, name: str) -> None:
    home.up(name, "shop", fault=home.path / "died")


def sells_on(home: Home, *shops: str) -> None:
    """Return once each of *shops* has sold some more."""
    for shop in shops:
        newest = home.newest(shop)
        until(lambda shop=shop, newest=newest: home.newest(shop) > newest + 20, 20.0)  # type: ignore[misc]  # bound now


def went_home(home: Home) -> tuple[set[int], list[str]]:
    """End the crowd; return what was bought, and all that failed."""
    assert home.stop("crowd") == 0
    bought, failed = msgspec.json.decode((home.path / "said").read_bytes())
    return set(bought), failed


def sold(home: Home) -> Counter[int]:
    return Counter(number for shop in SHOPS for number in home.recorded(shop, "x.sold."))


@pytest.mark.timeout(60)
def test_f30_terminated_instance_fails_no_safe_and_no_keyed_call(home: Home) -> None:
    home.up("witness", "witness")
    for shop in SHOPS:
        open_shop(home, shop)
    home.up("crowd", "crowd", fault=home.path / "said")
    for shop in SHOPS:
        sells_on(home, *SHOPS)
        began = time.monotonic()
        assert home.stop(shop) == 0
        assert time.monotonic() - began < DRAIN_MAX_S
        sells_on(home, *(other for other in SHOPS if other != shop))
        open_shop(home, shop)
    sells_on(home, *SHOPS)
    bought, failed = went_home(home)
    assert failed == []
    assert set(sold(home).values()) == {1}
    assert bought <= set(sold(home))
    assert home.recorded("witness", "x.done")[:2] == list(SHOPS)  # they said goodbye
    assert "drain_cut_short" not in home.log()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("signals", "saved", "why"),
    [(1, True, "requests are under way"), (2, False, "a second signal")],
    ids=["it is given up, and there is time to save", "told twice it ends at once"],
)
def test_f30_handler_that_does_not_end_holds_no_drain_up_and_the_journal_is_whole(
    home: Home, signals: int, saved: bool, why: str
) -> None:
    open_shop(home, "shop1")
    home.up("watcher", "watcher")
    shop, done = home.nodes["shop1"], home.path / "orders.done"
    order = ["shop1", "shop.pay", [7, "never", 0.0]]
    (home.path / "orders").write_bytes(msgspec.json.encode([order]))
    home.up("buyer", "buyer", fault=home.path / "orders")
    until(lambda: 7 in home.recorded("shop1", "x.paid."))
    shop.send_signal(signal.SIGTERM)
    until(lambda: ["shop1", "draining"] in home.recorded("watcher", "x.seen"))
    assert shop.poll() is None
    if signals > 1:
        shop.send_signal(signal.SIGTERM)
    assert shop.wait(DRAIN_MAX_S) == 0
    home.kill("shop1")
    until(done.exists)
    assert msgspec.json.decode(done.read_bytes()) == {"7": ["unknown OUTCOME_UNKNOWN"]}
    assert (home.path / "died" / "saved").exists() is saved
    assert f'"{why}"' in home.log()
    open_shop(home, "shop1")
    assert home.recorded("shop1", "x.paid.").count(7) == 1
    assert "crashed" not in home.log()


@pytest.mark.timeout(60)
def test_f30_killed_while_it_drains_it_has_every_effect_once(home: Home) -> None:
    dice = Random(1)
    for shop in SHOPS:
        open_shop(home, shop)
    home.up("crowd", "crowd", fault=home.path / "said")
    killed = 0
    for _ in range(8):
        shop = dice.choice(SHOPS)
        sells_on(home, shop)
        process = home.nodes[shop]
        process.send_signal(signal.SIGTERM)
        time.sleep(dice.uniform(0.0, 0.03))  # the moment of the kill is the dice's
        home.kill(shop)
        killed += process.returncode == -signal.SIGKILL
        open_shop(home, shop)
    sells_on(home, *SHOPS)
    bought, failed = went_home(home)
    print(f"{killed} of 8 killed in their drain; {len(bought)} bought; {len(failed)} asked again")  # noqa: T201  # the count is the result
    assert killed > 0
    assert all(": unknown " in what or ": no " in what for what in failed)
    assert set(sold(home).values()) == {1}
    assert bought <= set(sold(home))
    assert "crashed" not in home.log()
