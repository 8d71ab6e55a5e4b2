"""Servers of keyed and once methods that die around the effect of each request.

Each dies at a place of its handler: before it commits, while it does, between the effect on disk
and the reply, or when it has handed the reply to its socket. A keyed effect is there exactly once
and its caller ends with the answer. A once effect is there at most once, and its caller is never
told what is not so.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from tests.chaos.process.homes import Home, until

pytestmark = [pytest.mark.system, pytest.mark.slow]

KILLS = 200
SHOPS = tuple(f"shop{number}" for number in range(1, 6))
PLACES = ("before", "during", "after", "after", "sent")  # most where it hurts most
LATER_S = 0.004  # within that the others die: a commit takes about as long


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def bought(home: Home, methods: tuple[str, ...]) -> tuple[list[Any], dict[int, list[str]]]:
    """Return the orders, and what the buyer was told each time it gave one of them."""
    dice, died, orders = Random(1), home.path / "died", home.path / "orders"
    died.mkdir()
    plan = [
        (
            SHOPS[number % len(SHOPS)],
            dice.choice(methods),
            (number, dice.choice(PLACES), dice.uniform(0.0, LATER_S)),
        )
        for number in range(1, KILLS + 1)
    ]
    orders.write_bytes(msgspec.json.encode(plan))
    for shop in SHOPS:
        home.start(shop, "shop", reborn=True, fault=died)
    for shop in SHOPS:
        assert home.is_up(shop, None)
    home.up("buyer", "buyer", fault=orders)
    done = orders.with_suffix(".done")
    until(done.exists, 90.0)
    assert {int(mark.name) for mark in died.iterdir()} == set(range(1, KILLS + 1))
    assert [home.stop(node) for node in list(home.nodes)] == [0] * (len(SHOPS) + 1)
    return plan, msgspec.json.decode(done.read_bytes(), type=dict[int, list[str]])


def effects(home: Home, topic: str) -> Counter[int]:
    """Return how often each order had its effect, by the journals of the dead."""
    found = (number for shop in SHOPS for number in home.recorded(shop, topic))
    return Counter(number for number in found if number)


def tell(plan: list[Any], told: dict[int, list[str]], there: Counter[int]) -> None:
    where = Counter(order[1] for _, _, order in plan)
    last = [outcomes[-1] for outcomes in told.values()]
    unknown = sum(outcome.startswith("unknown") for outcome in last)
    print(  # noqa: T201  # the count is the result; `pytest -s` shows it
        f"{len(plan)} kills {dict(where)}; {sum(there.values())} effects, "
        f"{len(there)} of them different; {len(last) - unknown} answers, {unknown} unknown; "
        f"{sum(len(outcomes) - 1 for outcomes in told.values())} asked again by the buyer"
    )


@pytest.mark.timeout(120)
def test_keyed_effects_are_there_once_and_answered_whenever_their_server_dies(home: Home) -> None:
    plan, told = bought(home, ("shop.sell", "shop.rent"))
    there = effects(home, "x.sold.") + effects(home, "x.rent.")
    tell(plan, told, there)
    assert there == Counter(range(1, KILLS + 1))
    assert {number: outcomes[-1] for number, outcomes in told.items()} == {
        number: str(-number) for number in range(1, KILLS + 1)
    }


@pytest.mark.timeout(120)
def test_once_is_there_at_most_once_and_its_caller_is_never_told_wrong(home: Home) -> None:
    plan, told = bought(home, ("shop.pay",))
    there = effects(home, "x.paid.")
    tell(plan, told, there)
    assert set(there.values()) == {1}
    for _, _, (number, where, _) in plan:
        (outcome,) = told[number]
        if where in ("before", "after"):
            assert outcome == "unknown OUTCOME_UNKNOWN"
            assert there[number] == (where == "after")
        else:
            assert outcome in ("unknown OUTCOME_UNKNOWN", str(-number))
            assert there[number] or outcome != str(-number)
        assert there[number] or where in ("before", "during")
