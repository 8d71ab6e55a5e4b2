"""StreamFeed: a consumer applies a journal once and in order, through losses and failures."""

import pytest

from mesh.protocol.catchup import FETCHING, HALTED
from mesh.protocol.catchup import LIVE as CAUGHT_UP
from mesh.sim.eventplane import EventPlane
from mesh.sim.network import Armed
from mesh.sim.streamfeed import StreamFeed
from mesh.sim.world import Violation
from tests.unit.mesh.sim.worlds import calm, plane

QUIET = calm(durable_until_s=5.0)


def stream_of(model: EventPlane) -> StreamFeed:
    return model.subscribers["s0"].readers[0]


def agree(model: EventPlane) -> bool:
    """Say whether the consumer has all that the journal holds."""
    stream = stream_of(model)
    stream.end()
    return stream.catchup.applied == stream.reader.done == model.publishers["p0"].disk.last > 0


def restart(model: EventPlane, name: str) -> None:
    node = model.publishers.get(name) or model.subscribers[name]
    node.process.die()
    model.net.gone(name)
    if node.disk is not None:
        node.disk.crash()
    node.boot()


def test_records_are_applied_as_they_come() -> None:
    model = plane(QUIET, until_s=8.0)
    assert agree(model)
    assert stream_of(model).catchup.stage is CAUGHT_UP


@pytest.mark.parametrize("n", [1, 2, 7])
def test_lost_records_are_fetched(n: int) -> None:
    model = plane(QUIET)
    model.net.pipes["p0", "s0", "d"].armed.append(Armed(0, "lose", n))
    model.world.until(12.0)
    assert agree(model)
    assert stream_of(model).link.tracker.missed == n


def test_a_fetch_that_is_lost_is_asked_for_again() -> None:
    model = plane(QUIET)
    model.net.pipes["p0", "s0", "d"].armed.append(Armed(0, "lose", 4))
    model.net.routes["p0", "s0"].armed.append(Armed(1, "rpc_lose", 4))
    model.world.until(25.0)
    assert agree(model)


def test_records_that_fail_together_come_again_one_by_one() -> None:
    model = plane(QUIET)
    model.subscribers["s0"].raising += [0] * 3
    model.net.cut("p0", "s0")
    model.world.until(4.0)
    model.net.heal("p0", "s0")
    model.world.until(12.0)
    assert agree(model)
    assert any(" by raise" in name for name in model.world.counters)


def test_either_end_may_die() -> None:
    model = plane(QUIET)
    restart(model, "s0")
    model.world.until(4.0)
    restart(model, "p0")
    model.world.until(12.0)
    assert agree(model)


def test_a_journal_deleted_is_noticed_and_the_new_one_applied_from_its_first_record() -> None:
    model = plane(QUIET)
    model.publishers["p0"].disk.delete()
    restart(model, "p0")
    model.world.until(12.0)
    assert agree(model)
    assert model.world.counters["Reset"] == 1


def test_what_retention_took_is_noticed() -> None:
    model = plane(QUIET)
    model.net.cut("p0", "s0")
    model.world.until(4.9)
    publisher = model.publishers["p0"]
    publisher.retain(publisher.disk.last - 1)
    model.net.heal("p0", "s0")
    model.world.until(12.0)
    assert agree(model)
    assert model.world.counters["Gone"] == 1


def test_an_old_copy_of_the_journal_halts_the_stream() -> None:
    model = plane(QUIET, until_s=6.0)
    publisher = model.publishers["p0"]
    publisher.disk.restore(3)
    publisher.truth.restored("p0.1", 3)
    restart(model, "p0")
    model.world.until(8.0)
    assert stream_of(model).catchup.stage is HALTED
    assert stream_of(model).reader.halted
    stream_of(model).end()


def test_a_consumer_that_is_behind_in_the_end_breaks_a_promise() -> None:
    model = plane(QUIET)
    stream = stream_of(model)
    stream.catchup.stage = FETCHING
    with pytest.raises(Violation, match="behind"):
        stream.end()
