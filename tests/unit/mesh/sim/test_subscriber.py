"""Subscriber: effect and offset are stored together; without a disk it begins at the newest."""

from mesh.protocol.envelope import Event
from mesh.sim.config import limits
from mesh.sim.subscriber import APPLY_AGAIN_S, Effects, Subscriber
from tests.unit.mesh.sim.worlds import calm, plane


def subscriber(*, memory: bool = False, until_s: float = 3.0) -> Subscriber:
    return plane(calm(memory=(memory,)), until_s=until_s).subscribers["s0"]


def test_every_effect_has_its_offset() -> None:
    made = subscriber()
    assert made.disk is not None
    effects = Effects("p0", made.ledger, made.process)
    stored = effects.stored("p0.1")
    assert stored == list(range(1, len(stored) + 1))
    assert made.disk.applied["p0"].offset == stored[-1]
    assert effects.stored("p0.9") == []


def test_a_new_run_goes_on_behind_what_is_stored() -> None:
    made = subscriber()
    made.process.die()
    made.net.gone("s0")
    made.boot()
    made.process.world.until(6.0)
    (stream,) = made.readers
    assert not stream.reader.halted
    assert stream.catchup.applied == made.net.pipes["p0", "s0", "d"].speaker.disk.last  # type: ignore[attr-defined]


def test_without_a_disk_it_begins_at_the_newest() -> None:
    made = subscriber(memory=True)
    effects = Effects("p0", made.ledger, made.process)
    assert effects.start("p0.1") is None
    assert not effects.confirm("p0.1", 3)
    assert effects.stored("p0.1") == []
    done: list[bool] = []
    effects.apply("p0.1", [], lambda: done.append(True))
    assert done == [True]


def test_a_disk_that_is_new_begins_at_the_first_record() -> None:
    made = subscriber(until_s=0.6)
    assert Effects("p9", made.ledger, made.process).start("L") == ("", 0)


def test_effects_wait_while_too_many_wishes_do() -> None:
    made, done = subscriber(), list[bool]()
    world, effects = made.process.world, Effects("p9", made.ledger, made.process)
    with limits(calm(limits={"QUEUE_MAX": 0})):
        effects.apply("L", [Event("ord.0", 1, 1, 1, 1, b"", offset=7)], lambda: done.append(True))
        world.until(world.now + APPLY_AGAIN_S / 2)
    assert not done
    world.until(world.now + APPLY_AGAIN_S)
    assert done == [True]
    assert (effects.start("L"), effects.stored("L")) == (("L", 7), [7])


def test_prefixes_come_and_go() -> None:
    made = subscriber(until_s=20.0)
    (feed,) = made.feeds
    counters = made.process.world.counters
    assert {"md.", "lv."} <= feed.link.prefixes
    assert counters["link LIVE"] > counters["link SYNCING"] > 1


def test_a_handler_fails_as_often_as_it_is_told_to() -> None:
    made = subscriber()
    made.raising += [4, 4, 5]
    made.process.world.until(6.0)
    assert not made.raising
    assert made.process.world.took == {4, 5}
    assert made.readers[0].catchup.lag == 0
