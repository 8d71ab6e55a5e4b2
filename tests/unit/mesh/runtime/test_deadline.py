"""Deadline: inherited by what is called, and only ever shortened."""

import asyncio
from math import inf, nan

import pytest

from mesh.errors import Invalid
from mesh.runtime.deadline import deadline_s, left_s, within


def test_story() -> None:
    assert deadline_s() is None
    assert left_s() is None
    with within(5.0) as outer:
        assert deadline_s() == outer
        with within(60.0) as longer:
            assert longer == outer
        with within(1.0) as inner:
            assert inner < outer
            assert 0.0 < (left_s() or 0.0) <= 1.0
        assert deadline_s() == outer
    assert deadline_s() is None


def test_block_that_fails_ends_it_too() -> None:
    with pytest.raises(KeyError), within(1.0):
        raise KeyError
    assert deadline_s() is None


@pytest.mark.parametrize("seconds", [0.0, -5.0, -inf])
def test_what_is_past_is_past(seconds: float) -> None:
    with within(seconds):
        assert left_s() == 0.0


def test_nan_is_refused() -> None:
    with pytest.raises(Invalid), within(nan):
        pass


async def test_tasks_inherit_it_and_do_not_disturb_each_other() -> None:
    found: dict[str, float | None] = {}

    async def note(name: str) -> None:
        with within(inf if name == "a" else 1.0):
            await asyncio.sleep(0)
            found[name] = deadline_s()

    with within(5.0) as deadline:
        async with asyncio.TaskGroup() as tasks:
            for name in "ab":
                tasks.create_task(note(name))
    assert found["a"] == deadline
    assert (found["b"] or inf) < deadline
