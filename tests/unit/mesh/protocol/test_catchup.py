"""Catch-up: whatever is lost, doubled or reordered, a journal is applied once and in order."""

from random import Random

from mesh.protocol.catchup import CatchUp


def test_story() -> None:
    """Behind at the HEAD: fetch to the end, then live; a gap fetches again."""
    catchup = CatchUp(log_id="j", applied=3)
    assert not catchup.head(1, {"a": 5}, "j", 5)
    assert catchup.want() == 3
    assert not catchup.live(1, "a", 6, 6)  # the fetch will bring it
    assert catchup.record(4)
    assert not catchup.record(4)
    catchup.page(through=6, last=6)
    assert catchup.want() is None
    assert catchup.live(1, "a", 7, 7)
    assert not catchup.live(1, "a", 9, 9)
    assert catchup.want() == 7


def test_another_journal_starts_from_its_beginning() -> None:
    catchup = CatchUp(log_id="old", applied=50)
    assert catchup.head(2, {}, "new", 4)
    assert catchup.want() == 0


def test_nothing_is_applied_before_the_first_head() -> None:
    assert not CatchUp().live(1, "a", 1, 1)


def test_lossy_link_still_applies_everything_once_in_order() -> None:
    for seed in range(200):
        dice = Random(seed)
        catchup, applied, journal = CatchUp(), [], 0
        catchup.head(1, {}, "j", 0)
        for _ in range(60):
            journal += 1
            for _ in range(dice.choice((0, 1, 1, 2))):  # lost, sent, sent twice
                applied += [journal] * catchup.live(1, "a", journal, journal)
            if dice.random() < 0.1:
                catchup.head(1, {"a": journal}, "j", journal)
            after = catchup.want()
            if after is not None and dice.random() < 0.5:
                through = min(journal, after + dice.randint(1, 5))
                applied += [n for n in range(after + 1, through + 1) if catchup.record(n)]
                catchup.page(through, journal)
            catchup.check()
        catchup.head(1, {"a": journal}, "j", journal)
        after = catchup.want()
        if after is not None:
            applied += [n for n in range(after + 1, journal + 1) if catchup.record(n)]
        assert applied == list(range(1, journal + 1)), seed


def test_frame_of_a_new_run_before_its_head_skips_nothing() -> None:
    """A restarted publisher committed 12 and 13 unheard; 14 arrives before the HEAD."""
    catchup = CatchUp(log_id="j", applied=11)
    catchup.head(1, {"a": 11}, "j", 11)
    assert not catchup.live(2, "a", 3, 14)
    assert catchup.want() == 11


def test_restarts_on_a_lossy_link_still_apply_everything_once_in_order() -> None:
    for seed in range(300):
        dice = Random(seed)
        catchup, applied, journal, epoch, seq = CatchUp(), [], 0, 1, 0
        catchup.head(epoch, {}, "j", 0)
        for _ in range(60):
            if dice.random() < 0.1:
                epoch, seq = epoch + 1, 0
            journal, seq = journal + 1, seq + 1
            if dice.random() < 0.6 and catchup.live(epoch, "a", seq, journal):
                applied.append(journal)
            if dice.random() < 0.2:
                catchup.head(epoch, {"a": seq}, "j", journal)
            after = catchup.want()
            if after is not None and dice.random() < 0.5:
                through = min(journal, after + dice.randint(1, 5))
                applied += [n for n in range(after + 1, through + 1) if catchup.record(n)]
                catchup.page(through, journal)
        catchup.head(epoch, {"a": seq}, "j", journal)
        after = catchup.want()
        if after is not None:
            applied += [n for n in range(after + 1, journal + 1) if catchup.record(n)]
        assert applied == list(range(1, journal + 1)), seed
