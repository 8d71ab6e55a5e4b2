"""Deadlines: due in order, once, and bounded however many are dropped."""

from random import Random

from mesh.protocol.deadlines import SLACK, Deadlines


def test_due_come_out_once_the_oldest_first() -> None:
    deadlines = Deadlines()
    for number, at in ((1, 3.0), (2, 1.0), (3, 2.0)):
        deadlines.set(number, at)
    deadlines.drop(3)
    assert deadlines.next() == 1.0
    assert deadlines.due(2.5) == [2]
    assert deadlines.due(3.0) == [1]
    assert (deadlines.next(), len(deadlines)) == (None, 0)


def test_a_moved_deadline_counts_where_it_is_now() -> None:
    deadlines = Deadlines()
    deadlines.set(1, 1.0)
    deadlines.set(1, 5.0)
    assert deadlines.due(4.0) == []
    deadlines.set(1, 2.0)
    assert deadlines.due(4.0) == [1]
    assert deadlines.due(9.0) == []


def test_what_is_dropped_takes_no_room_for_long() -> None:
    deadlines = Deadlines()
    for number in range(10_000):
        deadlines.set(number, 100.0 + number)
        deadlines.drop(number - 3)
        deadlines.check()
    assert len(deadlines._heap) <= 3 * 3 + SLACK


def test_a_burst_leaves_no_room_behind() -> None:
    deadlines = Deadlines()
    for number in range(600):
        deadlines.set(number, 100.0 + number)
    for number in range(590):
        deadlines.drop(number)
        deadlines.check()
    assert len(deadlines._heap) <= 2 * 10 + SLACK
    assert deadlines.due(1e6) == list(range(590, 600))
    deadlines.check()


def test_walk_agrees_with_a_plain_dict() -> None:
    dice, deadlines, model = Random(3), Deadlines(), dict[int, float]()
    for step in range(3_000):
        number, now = dice.randrange(20), step / 10
        if dice.random() < 0.6:
            model[number] = now + dice.random() * 5
            deadlines.set(number, model[number])
        else:
            model.pop(number, None)
            deadlines.drop(number)
        due = sorted((at, key) for key, at in model.items() if at <= now)
        assert deadlines.due(now) == [key for _, key in due]
        for _, key in due:
            del model[key]
        assert deadlines.next() == min(model.values(), default=None)
        deadlines.check()
