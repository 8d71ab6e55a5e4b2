"""Publisher: it says what is stored, after it is stored, in runs that rise."""

from mesh.protocol import envelope, topics
from mesh.protocol.commits import Wish
from mesh.protocol.control import Ack, Fetch, FetchPage, Snapshot, SnapshotPage
from mesh.sim.publisher import KEEP, Publisher
from tests.unit.mesh.sim.worlds import calm, plane


def publisher(until_s: float = 3.0) -> Publisher:
    return plane(calm(), until_s=until_s).publishers["p0"]


def again(made: Publisher) -> None:
    made.process.die()
    made.net.gone("p0")
    made.disk.crash()
    made.boot()


def test_runs_rise_though_the_wall_clock_does_not() -> None:
    made = publisher()
    before = made.epoch
    made.process.wall_offset_ns -= 3600 * 10**9
    again(made)
    assert made.epoch == before + 1


def test_a_new_run_goes_on_where_the_journal_ends() -> None:
    made = publisher()
    last = made.disk.last
    again(made)
    assert made.disk.last == last > 0
    assert made.d.streams[0].last == last
    assert not made.d.heads


def test_nothing_is_published_before_it_is_stored() -> None:
    made = publisher()
    made.config = calm(durable_until_s=0.0)  # it stores nothing more by itself
    made.process.world.until(4.0)
    sent: list[bytes] = []
    assert made.ledger is not None
    made.ledger.send = sent.append
    made.ledger.add(Wish(lambda offset: None, (made._record(),)))
    assert not sent
    made.process.world.until(5.0)
    index, record = (envelope.decode_event(frame) for frame in sent)
    assert index.topic == topics.LOG
    assert record.offset == made.disk.last


def test_a_refused_wish_is_told_and_a_patient_one_waits() -> None:
    made, told = publisher(), list[tuple[str, int | None]]()
    assert made.ledger is not None
    made.disk.full_until = made.process.world.now + 1.0
    made.ledger.add(Wish(lambda offset: told.append(("now", offset)), (made._record(),)))
    made.ledger.add(
        Wish(lambda offset: told.append(("later", offset)), (made._record(),), patient=True)
    )
    made.process.world.until(made.process.world.now + 0.9)
    assert told == [("now", None)]
    made.process.world.until(made.process.world.now + 1.0)
    (later,) = told[1:]
    assert later[0] == "later"
    assert isinstance(later[1], int)


def test_snapshots_and_pages_are_served_from_what_is_held() -> None:
    made = publisher(10.0)
    body = made.serve("snapshot", envelope.encode_value(Snapshot(("lv.",))))
    page: SnapshotPage = envelope.decode_value(body, SnapshotPage)
    assert len(page.frames) == len(made.e.last_values) > 0
    after = made.disk.first - 1
    ask = Fetch(made.disk.log_id, after, after + 5, ("",))
    fetched: FetchPage = envelope.decode_value(
        made.serve("fetch", envelope.encode_value(ask)), FetchPage
    )
    assert (len(fetched.frames), fetched.through) == (5, after + 5)


def test_what_all_have_applied_is_deleted_but_for_a_rest() -> None:
    made = publisher(20.0)
    acked = min(ack.offset for ack in made.disk.acks.values())
    assert 1 < made.disk.first <= acked - KEEP
    assert made.d.streams[0].first == made.disk.first


def test_an_acknowledgement_of_another_journal_means_nothing() -> None:
    made = publisher()
    before = dict(made.disk.acks)
    made.serve("ack s9", envelope.encode_value(Ack("K", 3)))
    made.process.world.until(made.process.world.now + 0.1)
    assert "s9" not in made.disk.acks
    assert made.disk.acks.keys() == before.keys()
