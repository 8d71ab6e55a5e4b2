"""EventFeed: the newest value of every topic is shown in the end, its end included."""

from mesh.sim.eventfeed import EventFeed
from mesh.sim.eventplane import EventPlane
from mesh.sim.network import Armed
from tests.unit.mesh.sim.worlds import calm, plane, unborn

QUIET = calm(events_until_s=3.0)


def feed_of(model: EventPlane) -> EventFeed:
    return model.subscribers["s0"].feeds[0]


def said(model: EventPlane) -> dict[str, tuple[int, int]]:
    """Return what the publisher holds."""
    publisher = model.publishers["p0"]
    return {t: (publisher.epoch, v.seq) for t, v in sorted(publisher.e.last_values.items())}


def test_values_said_before_the_link_was_live_come_as_a_snapshot() -> None:
    model = unborn(calm(events_until_s=0.0))
    publisher = model.publishers["p0"]
    publisher.boot()
    for topic in ("lv.0", "lv.1", "lv.1", "lv.9"):
        publisher._event(topic, ended=False)
    publisher._event("lv.0", ended=True)
    model.subscribers["s0"].boot()
    model.world.until(1.0)
    held = feed_of(model).holds()
    assert held.keys() == {"lv.1", "lv.9"}
    assert held == said(model)
    assert model.world.counters["snapshot"] == 1


def test_live_values_and_their_ends_are_shown() -> None:
    model = plane(calm(events_rate=20.0), until_s=15.0)
    assert feed_of(model).holds() == said(model)
    assert feed_of(model).screen.shown


def test_a_value_lost_is_asked_for() -> None:
    model = plane(QUIET, until_s=4.0)
    model.net.pipes["p0", "s0", "e"].armed.append(Armed(0, "lose", 1))
    model.publishers["p0"]._event("lv.0", ended=False)
    assert feed_of(model).holds() != said(model)
    model.world.until(7.0)
    assert feed_of(model).holds() == said(model)


def test_a_snapshot_that_fails_is_asked_for_again() -> None:
    model = plane(QUIET, until_s=4.0)
    model.net.routes["p0", "s0"].armed.append(Armed(1, "rpc_lose", 2))
    model.net.pipes["p0", "s0", "e"].armed.append(Armed(0, "lose", 1))
    model.publishers["p0"]._event("lv.0", ended=False)
    model.world.until(14.0)
    assert model.world.counters["snapshot torn"] > 0
    assert feed_of(model).holds() == said(model)


def test_values_of_a_prefix_dropped_are_forgotten() -> None:
    model = plane(calm(events_until_s=0.0), until_s=0.9)
    feed, publisher = feed_of(model), model.publishers["p0"]
    for topic in ("lv.3", "lv.4"):
        publisher._event(topic, ended=False)
    model.world.until(0.95)
    feed.want({"lv.4\0"})
    feed.drop("lv.")
    assert feed.holds().keys() == {"lv.4"}
    for topic in ("lv.3", "lv.4"):
        publisher._event(topic, ended=False)
    model.world.until(0.99)
    assert feed.holds() == {"lv.4": (publisher.epoch, 2)}


def test_values_of_a_dead_run_go_when_the_new_one_does_not_have_them() -> None:
    model = plane(QUIET, until_s=4.0)
    publisher = model.publishers["p0"]
    publisher._event("lv.0", ended=False)
    model.world.until(5.0)
    assert "lv.0" in feed_of(model).holds()
    publisher.process.die()
    model.net.gone("p0")
    publisher.boot()
    model.world.until(8.0)
    assert feed_of(model).holds() == said(model) == {}
