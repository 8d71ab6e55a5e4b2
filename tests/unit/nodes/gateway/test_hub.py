"""Hub: routes by topic, snapshots values, shows gaps, drops what is old.

Never here: sockets.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from mesh.protocol.mode import SAFE
from mesh.protocol.tokens import VIEW
from nodes.domain.market import Quote
from nodes.domain.schemas import SCHEMAS
from nodes.gateway.hub import Forget, Hub, Listen, News
from nodes.gateway.messages import JSON
from nodes.gateway.session import GOING_AWAY, Session
from nodes.gateway.settings import GatewaySettings

KINDS = {number: kind for kind, number in SCHEMAS.items()}
SETTINGS = GatewaySettings(
    host="127.0.0.1",
    port=5001,
    api_port=5000,
    clients_max=10,
    message_bytes_max=65_536,
    topics_max=3,
    requests_per_s=50,
    requests_burst=100,
    requests_open_max=2,
    queue_bytes_max=100_000,
    stall_s=5,
    auth_s=2,
)
QUOTE = Quote("BTC-USDT.X", Decimal("1.50"), Decimal(2), Decimal("1.60"), Decimal(3))


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub(lambda schema, payload: msgspec.msgpack.decode(payload, type=KINDS[schema]))
    yield made
    made.check()


def join(hub: Hub) -> Session:
    session = Session(
        name="s",
        codec=JSON,
        settings=SETTINGS,
        epoch=1,
        opened=0.0,
        scope_of=lambda token: VIEW,
        wake=lambda: None,
    )
    hub.open(session)
    session.authenticate("t", 0.0)
    heard(session)
    return session


def heard(session: Session) -> list[dict[str, Any]]:
    found = []
    while (data := session.take(0.0)) is not None:
        found.append(msgspec.json.decode(data))
    return found


def listen(hub: Hub, session: Session, *topics: str, op: str = "subscribe") -> list[Any]:
    data = msgspec.json.encode({"op": op, "id": 1, "topics": topics})
    orders, effects = hub.receive(session, data, 0.0, 0)
    assert orders == []
    return effects


def news(topic: str, seq: int, *, epoch: int = 1, tombstone: bool = False) -> News:
    payload = msgspec.msgpack.encode(QUOTE)
    return News(topic, "md", epoch, seq, 0, 5, SCHEMAS[Quote], payload, tombstone)


def test_subscriber_gets_the_last_value_then_live_events(hub: Hub) -> None:
    hub.publish(news("md.quote.BTC-USDT.X", 1), 0.0)
    session = join(hub)
    listen(hub, session, "md.quote.")
    hub.publish(news("md.quote.BTC-USDT.X", 2), 0.0)
    snapshot, subscribed, event = heard(session)
    assert snapshot["op"] == "snapshot"
    assert (snapshot["id"], snapshot["seq"], snapshot["data"]["bid"]) == (1, 1, "1.5")
    assert subscribed == {"op": "subscribed", "id": 1, "recovered": False, "denied": []}
    assert (event["op"], event["seq"], event["ts"], event["epoch"]) == ("event", 2, 5, 1)


def test_topic_without_a_final_dot_is_exactly_one(hub: Hub) -> None:
    session = join(hub)
    listen(hub, session, "md.bar.1m.BTC-USD")
    hub.publish(news("md.bar.1m.BTC-USDT", 1), 0.0)
    hub.publish(news("md.bar.1m.BTC-USD", 1), 0.0)
    assert [message.get("topic") for message in heard(session)] == [None, "md.bar.1m.BTC-USD"]


def test_mesh_is_asked_once_per_prefix_and_let_go_with_the_last_client(hub: Hub) -> None:
    one, two = join(hub), join(hub)
    assert listen(hub, one, "order.") == [Listen("order.")]
    assert listen(hub, two, "order.") == []
    assert listen(hub, one, "order.", op="unsubscribe") == []
    assert hub.leave(two) == [Forget("order.")]
    assert hub.leave(two) == []


def test_values_are_heard_anyway_so_the_mesh_is_not_asked(hub: Hub) -> None:
    assert listen(hub, join(hub), "md.quote.", "acct.position.paper.") == []


def test_topics_beyond_the_limit_or_odd_ones_are_denied(hub: Hub) -> None:
    session = join(hub)
    listen(hub, session, "", "Z.", "a\x00", "a.", "b.", "c.", "d.", "a.")
    assert heard(session)[-1]["denied"] == ["", "Z.", "a\x00", "d."]


def test_event_heard_through_two_prefixes_comes_once(hub: Hub) -> None:
    session = join(hub)
    listen(hub, session, "md.", "md.trade.")
    heard(session)
    for _ in range(2):
        hub.publish(news("md.trade.X", 1), 0.0)
    assert len(heard(session)) == 1


def test_missing_events_show_as_a_gap_but_skipped_values_do_not(hub: Hub) -> None:
    session = join(hub)
    listen(hub, session, "md.")
    heard(session)
    for seq in (4, 7):
        hub.publish(news("md.trade.X", seq), 0.0)
        hub.publish(news("md.quote.X", seq), 0.0)
    gaps = [message for message in heard(session) if message["op"] == "gap"]
    assert gaps == [{"op": "gap", "topic": "md.trade.X", "from": 5, "to": 6}]


def test_time_without_listeners_is_no_gap(hub: Hub) -> None:
    session = join(hub)
    listen(hub, session, "md.trade.")
    hub.publish(news("md.trade.X", 1), 0.0)
    listen(hub, session, "md.trade.", op="unsubscribe")
    listen(hub, session, "md.trade.")
    hub.publish(news("md.trade.X", 9), 0.0)
    assert "gap" not in [message["op"] for message in heard(session)]


def test_older_run_of_a_publisher_is_dropped(hub: Hub) -> None:
    session = join(hub)
    listen(hub, session, "md.quote.")
    heard(session)
    hub.publish(news("md.quote.X", 1, epoch=2), 0.0)
    hub.publish(news("md.quote.X", 8, epoch=1), 0.0)
    assert [message["epoch"] for message in heard(session)] == [2]


def test_tombstone_removes_the_value(hub: Hub) -> None:
    hub.publish(news("md.quote.X", 1), 0.0)
    hub.publish(news("md.quote.X", 2, tombstone=True), 0.0)
    session = join(hub)
    listen(hub, session, "md.quote.")
    assert [message["op"] for message in heard(session)] == ["subscribed"]


def test_what_cannot_be_decoded_is_counted_and_dropped(hub: Hub) -> None:
    session = join(hub)
    listen(hub, session, "md.trade.")
    heard(session)
    hub.publish(News("md.trade.X", "md", 1, 1, 0, 0, 0xDEAD, b"\xc1"), 0.0)
    hub.publish(News("md.trade.X", "md", 1, 2, 0, 0, SCHEMAS[Quote], b"\xc1"), 0.0)
    assert heard(session) == []
    assert hub.undecodable == 2


def test_new_mode_is_told_to_everybody_once(hub: Hub) -> None:
    sessions = [join(hub), join(hub)]
    hub.set_mode(SAFE, 3, 0.0)
    hub.set_mode(SAFE, 3, 0.0)
    for session in sessions:
        assert heard(session) == [{"op": "mode", "mode": "safe", "mode_epoch": 3}]


def test_slow_client_ends_alone(hub: Hub) -> None:
    slow, quick = join(hub), join(hub)
    listen(hub, slow, "order.")
    listen(hub, quick, "order.")
    ended = set()
    for seq in range(1, 2_000):
        ended |= {session for session, _ in hub.publish(news("order.paper", seq), 0.0)}
        heard(quick)
    assert ended == {slow}


def test_drain_says_bye_to_everybody(hub: Hub) -> None:
    session = join(hub)
    ((ended, close),) = hub.drain(0.0)
    assert ended is session
    assert getattr(close, "code", 0) == GOING_AWAY
    assert heard(session)[-1]["op"] == "bye"
