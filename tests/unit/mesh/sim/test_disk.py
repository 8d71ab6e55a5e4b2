"""Disk: a group is stored as a whole or not at all, whatever happens to the disk."""

from mesh.protocol import envelope
from mesh.protocol.commits import Applied, Group, Stored
from mesh.protocol.envelope import Event
from mesh.sim.disk import SLOW_SYNC_S, Disk
from tests.unit.mesh.sim.worlds import empty, process

TOPICS = ("ord.0", "aud.0", "ord.1", "ord.2")


def group(first: int = 1, topics: tuple[str, ...] = TOPICS) -> Group:
    records = tuple(
        Stored(offset, topic, 1, envelope.encode_event(Event(topic, 1, 1, 1, 1, b"", 0, offset)))
        for offset, topic in enumerate(topics, first)
    )
    return Group(records, (Applied("p1", "L", 9),), (), (Applied("s0", "L", 7),))


def disk(page_rows: int = 512) -> Disk:
    made = process(empty())
    return Disk(made, made.world.dice("disk"), lambda log_id, records: None, page_rows)


def written(made: Disk, asked: Group, for_s: float = 1.0) -> list[bool]:
    """Return what the writer is told of *asked* meanwhile."""
    told: list[bool] = []
    made.write(asked, told.append)
    made.process.world.until(made.process.world.now + for_s)
    return told


def full_of(made: Disk) -> Disk:
    assert written(made, group()) == [True]
    return made


def test_a_group_is_stored_with_all_that_belongs_to_it() -> None:
    made = full_of(disk())
    assert (made.first, made.last) == (1, 4)
    assert made.applied["p1"].offset == 9
    assert made.acks["s0"].offset == 7


def test_a_crash_keeps_the_group_under_way_as_a_whole_or_not_at_all() -> None:
    lasts = set()
    made = disk()
    for _ in range(20):
        made.write(group(made.last + 1), lambda stored: None)
        made.process.die()
        made.crash()
        made.process.begin()
        lasts.add(made.last % 4)
        made.process.world.until(made.process.world.now + 1)
    assert lasts == {0}
    assert 0 < made.last < 80


def test_a_full_disk_refuses_and_takes_again_later() -> None:
    made = disk()
    made.full_until = 1.0
    assert written(made, group(), 2.0) == [False]
    assert made.last == 0
    full_of(made)


def test_a_full_disk_still_stores_offsets() -> None:
    made = disk()
    made.full_until = 1.0
    assert written(made, group(topics=())) == [True]


def test_a_slow_disk_takes_its_time() -> None:
    made = disk()
    made.slow_until = 1.0
    told: list[bool] = []
    made.write(group(), told.append)
    made.process.world.until(SLOW_SYNC_S)
    assert not told
    made.process.world.until(SLOW_SYNC_S + 1)
    assert told == [True]


def test_a_failed_write_is_told_to_the_process_not_to_the_writer() -> None:
    made, failures = disk(), list[bool]()
    made.failed, made.failing = lambda: failures.append(True), 1
    assert not written(made, group())
    assert failures == [True]
    assert made.last in (0, 4)


def test_a_page_is_bounded_filtered_and_says_how_far_it_looked() -> None:
    made = full_of(disk(page_rows=3))
    page = made.page(made.log_id, 0, 9, ("ord.",))
    topics = [envelope.decode_event(frame).topic for frame in page.frames]
    assert (topics, page.through) == (["ord.0", "ord.1"], 3)
    page = made.page(made.log_id, 3, 9, ("ord.",))
    assert (len(page.frames), page.through, page.last) == (1, 4, 4)


def test_a_page_of_another_journal_is_empty_and_names_its_own() -> None:
    page = full_of(disk()).page("K", 0, 9, ("",))
    assert (page.log_id, page.frames, page.through) == ("p0.1", (), 0)


def test_a_page_begins_at_what_is_kept() -> None:
    made = full_of(disk())
    made.retain(3)
    page = made.page(made.log_id, 0, 9, ("",))
    assert (len(page.frames), page.through, page.first) == (2, 4, 3)


def test_retention_never_gives_back_and_never_passes_the_end() -> None:
    made = full_of(disk())
    made.retain(99)
    made.retain(1)
    assert made.first == 5


def test_a_deleted_journal_is_another_one() -> None:
    made = full_of(disk())
    made.delete()
    assert (made.log_id, made.first, made.last, made.applied) == ("p0.2", 1, 0, {})


def test_an_old_copy_is_the_same_journal_with_less_in_it() -> None:
    made = full_of(disk())
    made.restore(2)
    assert (made.log_id, made.last) == ("p0.1", 2)
