"""Mode: tightens at once, loosens after a dwell, never below what the operator asked for."""

from random import Random

from mesh.protocol.mode import EMERGENCY, NORMAL, SAFE, ModeKeeper, parse_mode, tightest


def test_story() -> None:
    """Starts SAFE, becomes NORMAL after the dwell, SAFE at once when a cause appears."""
    keeper = ModeKeeper(dwell_s=2.0)
    keeper.cause("risk is ABSENT", SAFE)
    assert not keeper.update(0.0)
    keeper.cause("risk is ABSENT", None)
    assert not keeper.update(1.0)
    assert keeper.next_deadline() == 3.0
    assert keeper.update(3.0)
    assert keeper.mode is NORMAL
    keeper.cause("risk is DOWN", SAFE)
    assert keeper.update(3.1)
    assert (keeper.mode, keeper.reason) == (SAFE, "risk is DOWN")


def test_operator_tightens_at_once_and_loosens_at_once() -> None:
    keeper = ModeKeeper(dwell_s=2.0)
    keeper.update(0.0)
    keeper.update(2.0)
    assert keeper.operator(EMERGENCY, "drill", "ada", 5.0)
    assert (keeper.mode, keeper.by, keeper.reason) == (EMERGENCY, "ada", "drill")
    assert keeper.operator(NORMAL, "", "ada", 6.0)
    assert keeper.mode is NORMAL


def test_operator_cannot_loosen_below_a_cause() -> None:
    keeper = ModeKeeper(dwell_s=2.0)
    keeper.cause("execution is DOWN", SAFE)
    keeper.operator(NORMAL, "hurry", "ada", 9.0)
    assert keeper.mode is SAFE


def test_unreadable_mode_is_safe() -> None:
    assert parse_mode("NORMAL") is NORMAL
    assert parse_mode("fine") is SAFE
    assert tightest(NORMAL, EMERGENCY, SAFE) is EMERGENCY


def test_walk_keeps_the_invariants_and_epochs_only_grow() -> None:
    dice, keeper, now = Random(3), ModeKeeper(dwell_s=1.0), 0.0
    seen = set()
    for _ in range(3_000):
        now += dice.random() * 0.7
        before = keeper.epoch, keeper.mode
        step = dice.choice(("cause", "clear", "operator", "wait"))
        if step == "cause":
            keeper.cause(dice.choice("abc"), dice.choice((SAFE, EMERGENCY)))
            keeper.update(now)
        elif step == "clear":
            keeper.cause(dice.choice("abc"), None)
            keeper.update(now)
        elif step == "operator":
            keeper.operator(dice.choice((NORMAL, SAFE, EMERGENCY)), "", "x", now)
        else:
            keeper.update(now)
        keeper.check()
        assert (keeper.epoch > before[0]) is (keeper.mode is not before[1])
        seen.add(keeper.mode)
    assert seen == {NORMAL, SAFE, EMERGENCY}
