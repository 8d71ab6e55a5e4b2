import statistics

from nodes.market_data.dice import Dice


def test_same_seed_same_throws_for_ever() -> None:
    dice = Dice(7)
    assert [dice.below(100) for _ in range(8)] == [Dice(7).below(100), *_after_first(7)]
    assert [Dice(1).below(2**31) for _ in range(3)] != [Dice(2).below(2**31) for _ in range(3)]


def _after_first(seed: int) -> list[int]:
    dice = Dice(seed)
    dice.below(100)
    return [dice.below(100) for _ in range(7)]


def test_throws_stay_in_their_range_and_reach_its_ends() -> None:
    dice = Dice(0)
    assert {dice.between(-1, 2) for _ in range(200)} == {-1, 0, 1, 2}


def test_normal_draws_have_no_drift_and_the_asked_width() -> None:
    dice = Dice(3)
    draws = [dice.normal(10_000) for _ in range(4_000)]
    assert abs(statistics.mean(draws)) < 600
    assert 9_500 < statistics.pstdev(draws) < 10_500
