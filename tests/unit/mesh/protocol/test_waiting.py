"""Waiting: urgent first, retries last; when it is full the least urgent gives way."""

from random import Random

from mesh.protocol.waiting import Waiting, rank


def filled(*places: tuple[int, int, float], size_max: int = 9) -> Waiting[int]:
    waiting: Waiting[int] = Waiting(size_max)
    for number, (prio, attempt, deadline) in enumerate(places):
        assert waiting.add(rank(prio, attempt, deadline, number), number) is None
    return waiting


def test_order_is_priority_then_first_attempts_then_deadline() -> None:
    waiting = filled((500, 1, 3.0), (500, 2, 1.0), (500, 1, 2.0), (50, 3, 9.0))
    assert list(waiting) == [3, 2, 0, 1]
    assert waiting.first() == 3


def test_retries_are_shed_before_first_attempts_of_their_class() -> None:
    waiting = filled((500, 1, 3.0), (500, 2, 1.0), size_max=2)
    assert waiting.add(rank(500, 1, 9.0, 7), 7) == 1
    assert waiting.add(rank(500, 2, 0.5, 8), 8) == 8  # the newcomer itself
    assert waiting.add(rank(50, 2, 9.0, 9), 9) == 7
    assert list(waiting) == [9, 0]


def test_any_item_can_be_taken_once() -> None:
    waiting = filled((500, 1, 3.0), (500, 1, 2.0))
    assert (waiting.get(0), 0 in waiting) == (0, True)
    assert (waiting.take(0), waiting.take(0), waiting.get(0)) == (0, None, None)
    assert (waiting.take(1), waiting.first(), len(waiting)) == (1, None, 0)


def test_walk_keeps_the_most_urgent() -> None:
    dice, waiting, model = Random(5), Waiting[int](8), dict[int, tuple[int, bool, float, int]]()
    for number in range(3_000):
        place = rank(dice.choice((50, 500)), dice.choice((1, 2)), dice.random(), number)
        model[number] = place
        victim = waiting.add(place, number)
        if victim is not None:
            assert model[victim] == max(model.values())
            del model[victim]
        if dice.random() < 0.4:
            gone = dice.choice(list(model))
            assert waiting.take(gone) == gone
            del model[gone]
        assert list(waiting) == sorted(model, key=lambda key: model[key])
        waiting.check()
