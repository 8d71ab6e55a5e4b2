"""REST: doors first (host, token, scope, size), then routes, then problems.

Never here: the mesh; calls go to a plain function.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from litestar.testing import TestClient

from mesh.errors import MeshError, ModeBlocked, NoService, OutcomeUnknown
from mesh.protocol.tokens import OPERATE, TRADE, VIEW, Tokens
from nodes.api.app import ROUTES, STATIC, Mesh, create_app
from nodes.api.settings import ApiSettings

TOKENS = Tokens().with_token(VIEW, "see").with_token(TRADE, "act").with_token(OPERATE, "run")
SETTINGS = ApiSettings(
    host="127.0.0.1",
    port=5000,
    ws_port=5001,
    hosts=("127.0.0.1", "localhost", "[::1]"),
    body_bytes_max=65_536,
    call_timeout_s=2,
    connections_max=10,
)
NODE = {"node": "risk", "state": "UP", "epoch": 1, "pid": 3, "restarts": 0}


class Answers:
    """What the nodes would say; asked: what they were asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.crashes: list[Exception] = []
        self.error: Exception | None = None
        self.status: dict[str, Any] = {"mode": "SAFE", "mode_epoch": 3, "term": 1, "nodes": [NODE]}

    async def call(self, method: str, argument: Any) -> Any:
        self.asked.append((method, argument))
        if self.error:
            raise self.error
        if method == "coordinator.status":
            return self.status
        if method == "mesh.set_mode":
            return {"mode": argument["mode"], "mode_epoch": 4, "term": 1}
        return {"items": [{"of": method}], "next": "n"}

    @staticmethod
    def quote(instrument: str) -> dict[str, Any] | None:
        return {"bid": "1.5"} if instrument == "BTC-USDT.X" else None


@pytest.fixture
def answers() -> Answers:
    return Answers()


@pytest.fixture
def client(answers: Answers) -> Iterator[TestClient[Any]]:
    mesh = Mesh(answers.call, TOKENS.scope_of, answers.quote, answers.crashes.append)
    app = create_app(mesh, SETTINGS)
    with TestClient(app, base_url="http://127.0.0.1:5000", raise_server_exceptions=False) as made:
        yield made


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


SEE, ACT, RUN = bearer("see"), bearer("act"), bearer("run")
CLOSED = [
    (method, re.sub("{.*}", "x", path))
    for route in ROUTES
    if not route.opt.get("open")
    for path in route.paths
    for method in route.http_methods
    if method != "OPTIONS"
]


@pytest.mark.parametrize(("method", "path"), CLOSED)
@pytest.mark.parametrize(
    "headers", [{}, bearer(""), bearer("wrong"), {"Authorization": "Basic see"}]
)
def test_no_door_opens_without_a_known_token(
    client: TestClient[Any], method: str, path: str, headers: dict[str, str]
) -> None:
    answer = client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "UNAUTHENTICATED"
    assert "Bearer" in answer.headers["www-authenticate"]


def test_health_is_open_and_tells_nothing(client: TestClient[Any], answers: Answers) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert answers.asked == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:5000", "", "[::1"])
def test_foreign_host_names_are_refused(client: TestClient[Any], host: str) -> None:
    answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == 421
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:5000", "[::1]", "[::1]:5000"])
def test_our_own_names_are_served(client: TestClient[Any], host: str) -> None:
    assert client.get("/health", headers={"Host": host}).status_code == 200


def test_token_in_the_query_is_no_token(client: TestClient[Any]) -> None:
    assert client.get("/status?token=see").status_code == 401


def test_status_nodes_and_one_node(client: TestClient[Any], answers: Answers) -> None:
    assert client.get("/status", headers=SEE).json() == answers.status
    assert client.get("/nodes", headers=SEE).json() == {"items": [NODE], "next": None}
    assert client.get("/nodes/risk", headers=SEE).json() == NODE
    missing = client.get("/nodes/nobody", headers=SEE)
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")


def test_ready_names_who_is_missing(client: TestClient[Any], answers: Answers) -> None:
    assert client.get("/ready", headers=SEE).json()["ready"] is True
    answers.status["nodes"] = [NODE, {**NODE, "node": "md", "state": "DOWN"}]
    answer = client.get("/ready", headers=SEE)
    assert answer.status_code == 503
    assert answer.json()["nodes"] == {"risk": "UP", "md": "DOWN"}


def test_expected_node_that_never_came_is_not_ready(
    client: TestClient[Any], answers: Answers
) -> None:
    answers.status["missing"] = {"recorder": "ABSENT"}
    answer = client.get("/ready", headers=SEE)
    assert answer.status_code == 503
    assert answer.json()["nodes"] == {"risk": "UP", "recorder": "ABSENT"}


def test_mode_is_read(client: TestClient[Any]) -> None:
    assert client.get("/mode", headers=SEE).json() == {"mode": "SAFE", "mode_epoch": 3, "term": 1}


@pytest.mark.parametrize(
    ("headers", "mode", "expected"),
    [
        (SEE, "emergency", 403),
        (ACT, "emergency", 200),
        (ACT, "NORMAL", 403),
        (RUN, "normal", 200),
        (RUN, "fast", 400),
    ],
)
def test_trade_tightens_and_operate_loosens(
    client: TestClient[Any], answers: Answers, headers: dict[str, str], mode: str, expected: int
) -> None:
    answer = client.put("/mode", headers=headers, json={"mode": mode, "reason": "r"})
    assert answer.status_code == expected
    asked = [argument for method, argument in answers.asked if method == "mesh.set_mode"]
    assert len(asked) == (expected == 200)
    if asked:
        assert asked[0]["mode"] == mode.lower()
        assert asked[0]["by"].startswith("api.")


@pytest.mark.parametrize("name", ["orders", "fills", "positions", "balances"])
def test_lists_are_pages_of_execution(
    client: TestClient[Any], answers: Answers, name: str
) -> None:
    answer = client.get(f"/{name}?limit=7&cursor=c", headers=SEE)
    assert answer.json() == {"items": [{"of": f"execution.{name}"}], "next": "n"}
    assert answers.asked == [(f"execution.{name}", {"limit": 7, "cursor": "c"})]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=" + "c" * 201])
def test_pages_have_bounds(client: TestClient[Any], query: str) -> None:
    answer = client.get(f"/orders?{query}", headers=SEE)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID")


def test_quote_is_the_last_one_or_not_found(client: TestClient[Any]) -> None:
    assert client.get("/quotes/BTC-USDT.X", headers=SEE).json() == {"bid": "1.5"}
    assert client.get("/quotes/NO", headers=SEE).status_code == 404


def test_metrics_are_prometheus_text(client: TestClient[Any]) -> None:
    answer = client.get("/metrics", headers=SEE)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'genesis_node_up{node="risk"} 1.0' in answer.text


@pytest.mark.parametrize(
    ("error", "expected", "executed"),
    [
        (NoService("nobody serves it"), 503, "no"),
        (ModeBlocked("SAFE"), 409, "no"),
        (OutcomeUnknown("lost"), 504, "unknown"),
        (MeshError("odd"), 500, "unknown"),
    ],
)
def test_errors_of_the_mesh_become_problems(
    client: TestClient[Any], answers: Answers, error: MeshError, expected: int, executed: str
) -> None:
    answers.error = error
    problem = client.get("/status", headers=SEE).json()
    assert problem == {
        "type": "about:blank",
        "title": problem["title"],
        "status": expected,
        "detail": str(error),
        "code": error.code,
        "executed": executed,
    }


def test_bug_is_told_to_the_log_and_not_to_the_client(
    client: TestClient[Any], answers: Answers
) -> None:
    answers.error = KeyError("hush")
    answer = client.get("/status", headers=SEE)
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert "hush" not in answer.text
    assert answers.crashes == [answers.error]


def test_large_bodies_are_refused(client: TestClient[Any]) -> None:
    answer = client.put("/mode", headers=RUN, json={"mode": "safe", "reason": "x" * 70_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "REQUEST_ENTITY_TOO_LARGE")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"mode":1}', b'{"mode":"safe","x":1}'])
def test_odd_bodies_are_invalid(client: TestClient[Any], body: bytes) -> None:
    answer = client.put("/mode", headers=RUN, content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID")


def test_openapi_is_open_offline_and_complete(client: TestClient[Any]) -> None:
    document = client.get("/schema").json()
    assert document["openapi"].startswith("3.1")
    assert "/quotes/{instrument}" in document["paths"]
    assert "/dashboard.json" not in document["paths"]
    assert "http" not in client.get("/schema").headers["content-type"]


def test_dashboard_is_served_without_foreign_parts(client: TestClient[Any]) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "ws://127.0.0.1:5001" in policy
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        assert "//cdn" not in text
        assert "https://" not in text
        assert "innerHTML" not in text
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', page.text):
        assert client.get(name).status_code == 200


def test_dashboard_learns_where_the_gateway_is(client: TestClient[Any]) -> None:
    assert client.get("/dashboard.json").json() == {"ws_port": 5001}
