"""Window: sums of the last ten seconds, whatever the clock does in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.protocol.window import RateWindow


def filled(*calls: tuple[float, bool, bool]) -> RateWindow:
    window = RateWindow()
    for now, failed, slow in calls:
        window.add(now, failed=failed, slow=slow)
        window.check()
    return window


@pytest.mark.parametrize(
    ("failed", "slow", "good", "spoiled"),
    [
        (5, 0, 5, "5 of 10 calls failed"),
        (4, 0, 6, ""),
        (0, 8, 2, "8 of 10 calls were slow"),
        (0, 7, 3, ""),
        (9, 0, 0, ""),  # nine calls say nothing
        (0, 9, 0, ""),
        (50, 0, 51, ""),
    ],
)
def test_share_is_spoiled_at_half_failed_or_four_fifths_slow(
    failed: int, slow: int, good: int, spoiled: str
) -> None:
    calls = [(100.0, True, False)] * failed + [(100.0, False, True)] * slow
    assert filled(*calls, *[(100.0, False, False)] * good).spoiled() == spoiled


def test_second_leaves_as_a_whole() -> None:
    window = filled((0.0, True, False), (0.9, True, False), (1.0, True, False))
    for now, left in ((9.9, 3), (10.0, 1), (11.0, 0)):
        window.add(now, failed=False, slow=False)
        assert window.failed == left


def test_clear_forgets() -> None:
    window = filled(*[(3.0, True, True)] * 20)
    window.clear()
    window.check()
    window.add(3.5, failed=False, slow=False)
    assert (window.calls, window.failed, window.slow) == (1, 0, 0)


def test_call_that_ended_a_little_earlier_counts_as_of_now() -> None:
    assert filled((5.1, False, False), (4.9, True, False)).failed == 1


steps = st.sampled_from((0.0, 0.25, 0.5, 1.0, 3.0, 8.75, 9.0, 10.0, 11.0, 1e6))


@given(st.lists(st.tuples(steps, st.booleans(), st.booleans()), max_size=60))
def test_sums_are_those_of_the_last_ten_whole_seconds(
    calls: list[tuple[float, bool, bool]],
) -> None:
    window, now, seen = RateWindow(), 0.0, list[tuple[int, bool, bool]]()
    for step, failed, slow in calls:
        now += step
        window.add(now, failed=failed, slow=slow)
        window.check()
        seen.append((int(now), failed, slow))
        held = [call for call in seen if call[0] > int(now) - 10]
        assert window.calls == len(held)
        assert window.failed == sum(failed for _, failed, _ in held)
        assert window.slow == sum(slow for _, _, slow in held)
