"""A durable stream while its owner and its consumer are killed again and again, at any moment.

What the owner's journal holds in the end is the truth: exactly that was applied, in order,
nothing twice. Whether a number exists whose commit was never acknowledged is left open.
"""

import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from random import Random

import pytest

from tests.chaos.process.homes import Home, until

pytestmark = [pytest.mark.system, pytest.mark.slow]

KILLS = 20  # of each
PER_S = 2_000
LIFE_S = (0.05, 0.95)  # between two kills: in recovery, in catch-up, while all is well
UNREADY = 0.25  # of the victims may be killed before they are up, the others are waited for
WAITS_S = 15  # for that, in all: where much else is done a start can take seconds
PATIENCE_S = 60  # for the rest; a second or two, but a machine may have much else to do


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


# 40 times up to 0.95 s, the waits, and the patience.
@pytest.mark.timeout(120)
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
    early, spare_s = 0, float(WAITS_S)
    for victim in victims:
        if dice.random() > UNREADY:
            began = time.monotonic()
            home.is_up(victim, spare_s)
            spare_s = max(0.0, spare_s - (time.monotonic() - began))
        time.sleep(dice.uniform(*LIFE_S))  # the moment of the kill is the dice's
        early += not home.kill(victim)
        home.start(victim, kinds[victim], per_s=PER_S)
    home.kill("speaker")
    home.up("speaker", "counter")  # says nothing new
    newest, behind, began = home.newest("speaker"), home.newest("hearer"), time.monotonic()
    until(lambda: home.newest("hearer") >= newest, PATIENCE_S)
    took_s = time.monotonic() - began
    truth, applied = home.recorded("speaker"), home.recorded("hearer")
    print(  # noqa: T201  # the count is the result; `pytest -s` shows it
        f"seed {seed}: {len(victims)} kills, {early} of them before the victim was up;"
        f" {len(truth)} events, {pace(home, 'speaker'):.0f} a second while counting;"
        f" {len(applied)} applied, the last {newest - behind} of them in {took_s:.1f} s;"
        f" {len(applied) - len(set(applied))} twice, {len(set(truth) - set(applied))} missing"
    )
    assert truth == list(range(1, newest + 1))
    assert applied == truth
    assert "_notice" not in home.log()  # no reset, no hole, no stream halted
    assert [home.stop(node) for node in kinds] == [0, 0]
    assert not home.run.exists()


def pace(home: Home, node: str) -> float:
    """Return how many events a second *node* committed, from the first to the last of each run."""
    runs = [list(run) for _, run in groupby(home.events(node), lambda event: event.epoch)]
    spans = [run[-1].ts_sent - run[0].ts_sent for run in runs]
    return sum(len(run) - 1 for run in runs) / sum(spans) * 1e9
