"""A durable stream while its owner and its consumer are killed again and again, at any moment.

What the owner's journal holds in the end is the truth: exactly that was applied, in order,
nothing twice. Whether a number exists whose commit was never acknowledged is left open.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.chaos.process.homes import Home, until

pytestmark = [pytest.mark.system, pytest.mark.slow]

KILLS = 20  # of each
PER_S = 2_000
LIFE_S = (0.05, 1.1)  # between two kills: in recovery, in catch-up, while all is well


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


# 40 lives of up to 1.1 s, two starts at a time on two cores, and what is left to catch up with.
@pytest.mark.timeout(90)
@pytest.mark.parametrize("seed", [1])
def test_every_number_is_applied_once_and_in_order_although_both_ends_are_killed(
    home: Home, seed: int
) -> None:
    dice = Random(seed)
    kinds = {"speaker": "counter", "hearer": "applier"}
    victims = list(kinds) * KILLS
    dice.shuffle(victims)
    for node, kind in kinds.items():
        home.start(node, kind, per_s=PER_S)
    early = 0
    for victim in victims:
        time.sleep(dice.uniform(*LIFE_S))  # the moment of the kill is the dice's, nobody waits
        early += not home.kill(victim)
        home.start(victim, kinds[victim], per_s=PER_S)
    home.kill("speaker")
    home.up("speaker", "counter")  # says nothing new
    newest = home.newest("speaker")
    until(lambda: home.newest("hearer") >= newest, 30)
    truth, applied = home.recorded("speaker"), home.recorded("hearer")
    print(  # noqa: T201  # the count is the result; `pytest -s` shows it
        f"seed {seed}: {len(victims)} kills, {early} of them before the victim was up;"
        f" {len(truth)} events, {len(applied)} applied,"
        f" {len(applied) - len(set(applied))} twice, {len(set(truth) - set(applied))} missing"
    )
    assert truth == list(range(1, newest + 1))
    assert applied == truth
    assert "_notice" not in home.log()  # no reset, no hole, no stream halted
    assert [home.stop(node) for node in kinds] == [0, 0]
    assert not home.run.exists()
