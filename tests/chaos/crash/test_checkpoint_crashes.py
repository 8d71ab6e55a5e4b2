"""Crashes of a checkpointer at any line of its code: the old or the new state is there."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mesh.storage.checkpoint import KEPT, Checkpointer
from tests.chaos.crash.test_journal_crashes import Say, crash_points, lived

SAVES = 5  # the last ones delete


def saving(place: Path, say: Say) -> None:
    """Save again and again, first into a directory that is not there; in a thread and without."""

    async def save() -> None:
        for n in range(1, SAVES):
            await checkpointer.save({"n": n})
            say(n)

    with closing(Checkpointer("a", place)) as checkpointer:
        asyncio.run(save())
        checkpointer.save_checkpoint({"n": SAVES})
        say(SAVES)


def falling_back(place: Path, say: Say) -> None:
    """Restore past three bad files, a kept one of old among them, and save on top."""
    with closing(Checkpointer("a", place)) as checkpointer:
        assert checkpointer.restore_checkpoint() == {"n": 1}
        say(1)
        checkpointer.save_checkpoint({"n": 2})
        say(2)


def damaged(place: Path) -> None:
    """Leave one good file below two torn ones, and a half-written one of an earlier crash."""
    with closing(Checkpointer("a", place)) as checkpointer:
        checkpointer.save_checkpoint({"n": 1})
    for name in ("a.2.ckpt", "a.3.ckpt", "a.1.bad", ".a.tmp"):
        (place / name).write_bytes(b"torn")


def reopened(place: Path) -> int:
    """Return the number restored from what a crash left, 0 for none; saving goes on."""
    with closing(Checkpointer("a", place)) as checkpointer:
        found = checkpointer.restore_checkpoint()
        checkpointer.save_checkpoint({"n": 99})
        assert checkpointer.restore_checkpoint() == {"n": 99}
    left = [path.name for path in place.iterdir()]
    assert sum(name.endswith(".ckpt") for name in left) <= KEPT
    assert ".a.tmp" not in left
    return found["n"] if found else 0


@pytest.mark.timeout(60)  # hundreds of processes are started and killed
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("life", [saving, falling_back], ids=lambda life: life.__name__)
def test_f23_crash_at_every_line_of_the_checkpoint(
    tmp_path: Path, life: Callable[[Path, Say], None]
) -> None:
    def crash(kill_at: int | None) -> tuple[list[str], int]:
        place = tmp_path / str(kill_at)
        if life is falling_back:
            damaged(place)
        return lived(lambda say: life(place, say), kill_at)

    told, ended = crash(None)
    assert ended == 0
    lines = told.index("lines") + 1
    points = crash_points(told[lines:])
    assert len(points) > 80
    crashed = 0
    for point in points:
        said, ended = crash(point)
        crashed += ended == signal.SIGKILL
        acknowledged = int(said[-1]) if said else 0
        least = 1 if life is falling_back else 0
        found = reopened(tmp_path / str(point))
        at = f"line {told[lines + point - 1]}"
        assert max(acknowledged, least) <= found <= acknowledged + 1, at
    sys.stdout.write(f"{crashed} of {len(points)} crash points\n")
    assert crashed > 0.9 * len(points)  # threads may take turns another way: some ran to the end
