import asyncio

from mesh.clock import monotonic_s
from nodes.market_data.frame import Frame
from nodes.market_data.sources.pacing import Pacer

MS = 1_000_000


def frames(count: int, step_ms: float) -> list[Frame]:
    return [Frame(int(n * step_ms * MS), str(n).encode()) for n in range(count)]


async def test_speed_zero_hands_everything_over_in_order_and_lets_others_run() -> None:
    taken: list[Frame] = []
    others = 0

    async def other() -> None:
        nonlocal others
        while len(taken) < 1_000:
            others += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(other())
        tasks.create_task(Pacer(0).run(iter(frames(1_000, 1_000)), taken.append))
    assert taken == frames(1_000, 1_000)
    assert others > 5


async def test_frames_come_no_earlier_than_their_time() -> None:
    arrivals: list[float] = []
    began = monotonic_s()
    await Pacer(10).run(iter(frames(5, 100)), lambda _: arrivals.append(monotonic_s() - began))
    assert all(arrival >= n * 0.01 - 1e-6 for n, arrival in enumerate(arrivals))
    assert len(arrivals) == 5


async def test_paused_source_hands_nothing_over_until_resumed() -> None:
    taken: list[Frame] = []
    pacer = Pacer(0)
    pacer.pause()
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(pacer.run(iter(frames(3, 1)), taken.append))
        for _ in range(5):
            await asyncio.sleep(0)
        assert (taken, pacer.paused, task.done()) == ([], True, False)
        pacer.resume()
    assert len(taken) == 3


async def test_speed_is_changed_on_the_way() -> None:
    taken: list[Frame] = []
    pacer = Pacer(1)

    def sink(frame: Frame) -> None:
        taken.append(frame)
        pacer.set_speed(0)

    await pacer.run(iter(frames(3, 3_600_000)), sink)
    assert len(taken) == 3
