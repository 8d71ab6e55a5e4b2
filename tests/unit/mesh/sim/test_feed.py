"""Feed: a link becomes LIVE, hears, loses and learns of it; an alarm rings once, in time."""

from mesh.protocol.sync import LIVE
from mesh.sim.feed import EARLIEST_S, Alarm
from mesh.sim.network import Armed
from tests.unit.mesh.sim.worlds import calm, empty, plane, process


def alarm() -> tuple[Alarm, list[float]]:
    made, rings = process(empty()), list[float]()
    return Alarm(made, lambda: rings.append(made.world.now)), rings


def test_the_earliest_setting_of_an_alarm_counts() -> None:
    made, rings = alarm()
    for when in (3.0, None, 2.0, 4.0):
        made.set(when)
    made.process.world.until(9.0)
    assert rings == [2.0]


def test_an_alarm_set_in_the_past_rings_soon_and_once() -> None:
    made, rings = alarm()
    made.set(-1.0)
    made.process.world.until(9.0)
    assert rings == [EARLIEST_S]


def test_an_alarm_can_be_set_again_when_it_rang() -> None:
    made, rings = alarm()
    for when in (1.0, 2.0):
        made.set(when)
        made.process.world.until(when)
    assert rings == [1.0, 2.0]


def test_a_link_becomes_live_and_hears_everything() -> None:
    model = plane()
    (feed,) = model.subscribers["s0"].feeds
    heads = model.publishers["p0"].e.heads
    assert feed.link.state is LIVE
    assert feed.link.tracker.missed == 0
    assert feed.ear.due.items() <= {t: last + 1 for t, last in heads.items()}.items()


def test_lost_frames_are_told_as_gaps() -> None:
    model = plane()
    (feed,) = model.subscribers["s0"].feeds
    model.net.pipes["p0", "s0", "e"].armed.append(Armed(0, "lose", 5))
    model.world.until(6.0)
    assert feed.link.tracker.missed == 5
    assert model.world.counters["gap"] > 0


def test_a_lost_last_frame_is_told_by_a_heartbeat() -> None:
    model = plane(calm(events_until_s=3.0))
    publisher = model.publishers["p0"]
    model.net.pipes["p0", "s0", "e"].armed.append(Armed(0, "lose", 1))
    publisher._event("md.0", ended=False)
    model.world.until(6.0)
    assert model.world.counters["gap by beacon"] == 1


def test_a_new_run_is_heard_from_its_head_on() -> None:
    model = plane()
    (feed,) = model.subscribers["s0"].feeds
    publisher = model.publishers["p0"]
    publisher.process.die()
    model.net.gone("p0")
    publisher.boot()
    model.world.until(5.0)
    assert feed.link.tracker.epoch == feed.ear.epoch == publisher.epoch
    assert feed.link.tracker.synced
