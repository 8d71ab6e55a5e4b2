"""The planes on real sockets: events, last values, durable streams, requests, restarts."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias

import pytest

from mesh.errors import Denied, Draining, Invalid, NoService, NotFound, OutcomeUnknown, Unavailable
from mesh.protocol.control import DURABLE, EPHEMERAL, LASTVALUE
from mesh.runtime.component import Component, EventMeta, event, request

Eventually: TypeAlias = Callable[..., Awaitable[None]]


class Speaker(Component):
    """Says one topic of each class and answers."""

    says: ClassVar = {"t.tick.": EPHEMERAL, "t.price.": LASTVALUE, "t.fill.": DURABLE}

    @request("speaker.double")
    def double(self, number: int, caller: str) -> dict[str, Any]:
        return {"value": number * 2, "caller": caller}

    @request("speaker.refuse")
    async def refuse(self, _: None) -> None:
        raise Denied("not you")

    @request("speaker.bug")
    async def bug(self, _: None) -> None:
        raise ZeroDivisionError

    @request("speaker.never")
    async def never(self, _: None) -> None:
        await asyncio.Event().wait()

    @request("speaker.brief", timeout_s=0.02)
    async def brief(self, _: None) -> None:
        await asyncio.Event().wait()


class Listener(Component):
    """Remembers what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.ticks: list[int] = []
        self.prices: list[tuple[int, bool]] = []

    @event("t.tick.")
    def on_tick(self, number: int) -> None:
        self.ticks.append(number)

    @event("t.price.")
    async def on_price(self, number: int, meta: EventMeta) -> None:
        self.prices.append((number, meta.snapshot))


class Follower(Component):
    """Applies a durable stream and stores how far, in its own journal."""

    says: ClassVar = {"f.": DURABLE}

    def __init__(self, applied: list[int]) -> None:
        super().__init__()
        self.applied = applied

    def applied_offset(self, node: str, log_id: str) -> int | None:
        return 0

    @event("t.fill.", durable=True)
    async def on_fill(self, number: int, meta: EventMeta) -> None:
        await self.commit(("f.done", number), applied=meta)
        self.applied.append(number)


async def test_what_is_said_after_the_sockets_were_bound_anew_is_heard(
    mesh: Any, eventually: Eventually
) -> None:
    speaker, listener = Speaker(), Listener()
    bus = await mesh.start("speaker", speaker)
    hears = await mesh.start("listener", listener)
    await eventually(
        lambda: hears.peers.feeds and hears.peers.feeds["speaker", "e"].subscriber.live
    )
    for number in (1, 2, 3):
        speaker.emit("t.tick.a", number)
    bus.rebind()

    def heard() -> bool:
        speaker.emit("t.tick.a", 9)
        return 9 in listener.ticks

    await eventually(heard)
    assert listener.ticks[:1] in ([1], [9])  # what was under way may have gone with the old ones


async def test_events_reach_whoever_listens(mesh: Any, eventually: Eventually) -> None:
    speaker, listener = Speaker(), Listener()
    await mesh.start("listener", listener)
    bus = await mesh.start("speaker", speaker)
    hears = mesh.running["listener"][0].peers.feeds
    await eventually(lambda: ("speaker", "e") in hears and hears["speaker", "e"].subscriber.live)
    for number in range(1_000):
        speaker.emit("t.tick.a", number)
    await eventually(lambda: len(listener.ticks) == 1_000)
    assert listener.ticks == list(range(1_000))
    bus.heartbeat()
    assert bus.health.events_out == 1_000


async def test_late_joiner_gets_the_last_value_and_then_live(
    mesh: Any, eventually: Eventually
) -> None:
    speaker, listener = Speaker(), Listener()
    await mesh.start("speaker", speaker)
    speaker.emit("t.price.a", 1)
    speaker.emit("t.price.a", 2)
    await mesh.start("listener", listener)
    await eventually(lambda: listener.prices)
    speaker.emit("t.price.a", 3)
    await eventually(lambda: len(listener.prices) == 2)
    assert listener.prices == [(2, True), (3, False)]


async def test_restarted_publisher_is_heard_again_with_its_new_values(
    mesh: Any, eventually: Eventually
) -> None:
    listener = Listener()
    await mesh.start("listener", listener)
    first = Speaker()
    await mesh.start("speaker", first)
    first.emit("t.price.a", 1)
    await eventually(lambda: listener.prices)
    mesh.crash("speaker")
    second = Speaker()
    await mesh.start("speaker", second)
    second.emit("t.price.a", 10)
    await eventually(lambda: len(listener.prices) == 2)
    assert [price for price, _ in listener.prices] == [1, 10]


async def test_durable_events_survive_the_death_of_either_side(
    mesh: Any, eventually: Eventually
) -> None:
    applied: list[int] = []
    speaker = Speaker()
    await mesh.start("speaker", speaker)
    await mesh.start("follower", Follower(applied))
    for number in range(20):
        await speaker.commit(("t.fill.a", number))
    await eventually(lambda: len(applied) == 20)
    mesh.crash("follower")
    for number in range(20, 40):  # while nobody listens
        await speaker.commit(("t.fill.a", number))
    mesh.crash("speaker")
    speaker = Speaker()
    await mesh.start("speaker", speaker)
    await mesh.start("follower", Follower(applied))
    await speaker.commit(("t.fill.a", 40))
    await eventually(lambda: len(applied) >= 41)
    assert applied == list(range(41))


async def test_reply_names_the_caller(mesh: Any) -> None:
    await mesh.start("speaker", Speaker())
    caller = Listener()
    await mesh.start("listener", caller)
    assert await caller.call("speaker.double", 21, dict) == {"value": 42, "caller": "listener"}
    assert await caller.request("speaker", "speaker.double", 1) == {
        "value": 2,
        "caller": "listener",
    }


@pytest.mark.parametrize(
    ("method", "arg", "error", "executed"),
    [
        ("speaker.refuse", None, Denied, "no"),
        ("speaker.double", "text", Invalid, "no"),
        ("nobody.serves", None, NoService, "no"),
        ("speaker.bug", None, Exception, "unknown"),
    ],
)
async def test_errors_say_whether_it_happened(
    mesh: Any, method: str, arg: object, error: type[Exception], executed: str
) -> None:
    await mesh.start("speaker", Speaker())
    caller = Listener()
    await mesh.start("listener", caller)
    with pytest.raises(error) as found:
        await caller.call(method, arg, dict)
    assert found.value.executed == executed  # type: ignore[attr-defined]  # all are MeshError


async def test_unserved_method_of_a_known_node_is_not_found(mesh: Any) -> None:
    await mesh.start("speaker", Speaker())
    caller = Listener()
    await mesh.start("listener", caller)
    with pytest.raises(NotFound):
        await caller.call("nobody.serves", None, dict, target="speaker")


async def test_no_answer_in_time_is_unknown_and_no_peer_is_unavailable(mesh: Any) -> None:
    await mesh.start("speaker", Speaker())
    caller = Listener()
    await mesh.start("listener", caller)
    await caller.call("speaker.double", 1, dict)  # the session stands: what follows is sent
    with pytest.raises(OutcomeUnknown):
        await caller.call("speaker.never", None, dict, timeout_s=0.2)
    mesh.crash("speaker")
    with pytest.raises(Unavailable):
        await caller.call("speaker.double", 1, dict, timeout_s=0.2)


async def test_handler_cut_at_its_own_deadline_is_unknown_to_the_caller(mesh: Any) -> None:
    """The callee may give up a little before the caller does: the outcome is the same."""
    await mesh.start("speaker", Speaker())
    caller = Listener()
    await mesh.start("listener", caller)
    with pytest.raises(OutcomeUnknown, match="longer than the deadline"):
        await caller.call("speaker.brief", None, dict, timeout_s=30.0)


async def test_caller_that_waits_is_served_by_the_restarted_node(mesh: Any) -> None:
    await mesh.start("speaker", Speaker())
    caller = Listener()
    await mesh.start("listener", caller)
    await caller.call("speaker.double", 1, dict)
    mesh.crash("speaker")
    waiting = asyncio.gather(caller.call("speaker.double", 4, dict, timeout_s=5.0))
    await asyncio.sleep(0)
    await mesh.start("speaker", Speaker())
    assert (await waiting)[0]["value"] == 8


async def test_draining_node_refuses_new_requests(mesh: Any) -> None:
    bus = await mesh.start("speaker", Speaker())
    caller = Listener()
    await mesh.start("listener", caller)
    bus.drain(5.0)
    with pytest.raises(Draining):
        await caller.call("speaker.double", 1, dict)


async def test_untyped_request_reaches_process_request_and_typed_handlers(mesh: Any) -> None:
    class Seed(Component):
        async def process_request(self, request_type: str, data: Any, source: str) -> Any:
            if request_type == "echo":
                return [data, source]
            return await super().process_request(request_type, data, source)

        @request("seed.half")
        def half(self, number: int) -> int:
            return number // 2

    caller = Listener()
    await mesh.start("seed", Seed())
    await mesh.start("listener", caller)
    assert await caller.request("seed", "echo", {"a": 1}) == [{"a": 1}, "listener"]
    assert await caller.request("seed", "seed.half", 8) == 4
    with pytest.raises(NotFound):
        await caller.request("seed", "nothing", None)
    with pytest.raises(Invalid):
        await caller.request("seed", "seed.half", "text")


async def test_untyped_events_reach_on_event(mesh: Any, eventually: Eventually) -> None:
    heard: list[tuple[str, object, str]] = []

    class Seed(Component):
        async def on_event(self, event_type: str, data: Any, source: str) -> None:
            heard.append((event_type, data, source))

    seed, speaker = Seed(), Speaker()
    await mesh.start("seed", seed)
    await mesh.start("speaker", speaker)
    seed.hear("t.price.")
    await speaker.emit_event("t.price.x", {"a": 1})
    await eventually(lambda: heard)
    assert heard == [("t.price.x", {"a": 1}, "speaker")]
