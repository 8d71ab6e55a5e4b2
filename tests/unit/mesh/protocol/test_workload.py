"""Workload: slots, a reserve for the urgent, a queue whose least urgent gives way."""

from collections.abc import Iterator
from itertools import count

import pytest

from mesh.protocol.once import Key
from mesh.protocol.rpcs import KEYED, SAFE, Caller, Method, MethodClass
from mesh.protocol.work import QUEUED, RUNNING, Work
from mesh.protocol.workload import Workload


@pytest.fixture
def load() -> Iterator[Workload]:
    load = Workload(running_max=5, queue_max=2, bytes_max=100)
    yield load
    load.check()


numbers = count(1)


def work(prio: int = 500, deadline: float = 10.0, kind: MethodClass = SAFE) -> Work:
    number = next(numbers)
    item = Work(
        number, Caller("risk", "risk", 7), Method("a.b", kind), 9, b"12345", deadline, prio
    )
    item.key = Key("risk", b"%016d" % number) if kind is KEYED else None
    return item


def admitted(load: Workload, *items: Work) -> list[Work | None]:
    return [load.admit(item, 0.0) for item in items]


def test_a_fifth_of_the_slots_is_for_the_urgent(load: Workload) -> None:
    ordinary, urgent = [work() for _ in range(5)], work(prio=50)
    admitted(load, *ordinary, urgent)
    assert [item.stage for item in ordinary] == [RUNNING] * 4 + [QUEUED]
    assert (urgent.stage, load.running) == (RUNNING, 5)


def test_a_full_queue_sheds_the_least_urgent(load: Workload) -> None:
    admitted(load, *(work() for _ in range(4)), work(prio=50))
    late, soon, urgent = work(deadline=9.0), work(deadline=5.0), work(prio=50)
    assert admitted(load, late, soon, urgent) == [None, None, late]
    load.end(late)
    load.end(next(iter(load.works.values())))
    assert load.next(1.0) is urgent
    assert load.next(1.0) is None  # the slot left is kept for the urgent


def test_what_waits_is_overdue_by_its_deadline_what_runs_by_its_limit(load: Workload) -> None:
    safe, keyed = work(deadline=1.0), work(deadline=1.0, kind=KEYED)
    admitted(load, safe, keyed, work(), work())
    waits = work(deadline=2.0)
    load.admit(waits, 0.0)
    assert load.overdue(1.5) == [safe]
    load.extend(waits, 3.0)
    assert load.overdue(2.5) == []
    assert load.overdue(3.5) == [waits]
    assert keyed in load.overdue(60.0)
    assert (keyed.key, load.by_key) == (keyed.key, {keyed.key: keyed})


def test_bodies_are_bounded_and_urgent_ones_may_use_the_reserve(load: Workload) -> None:
    assert load.holds(80, urgent=False)
    assert not load.holds(81, urgent=False)
    assert load.holds(100, urgent=True)
    load.admit(work(), 0.0)
    assert not load.holds(96, urgent=True)
    load.end(next(iter(load.works.values())))
    assert load.bytes == 0
