"""The REST interface and the dashboard's files: routes to requests of the mesh.

Never here: state, decisions, how the mesh is reached.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

import msgspec
from litestar import Litestar, MediaType, Request, Response, Router, get, put
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import NamedDependency, Provide
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.types import ASGIApp, Receive, Send
from litestar.types import Scope as AsgiScope

from mesh.errors import MeshError, NotFound, RemoteProtocolError
from mesh.protocol.mode import SystemMode, parse_mode
from mesh.protocol.tokens import VIEW, Scope, mode_scope
from nodes.api.metrics import CONTENT_TYPE, exposition
from nodes.api.settings import ApiSettings

Call: TypeAlias = Callable[[str, Any], Awaitable[Any]]  # method, argument -> plain reply

STATIC: Final = Path(__file__).parent / "static"
PROBLEM: Final = "application/problem+json"
TITLE: Final = "Genesis"
STATUS_OF: Final = {  # error code of the mesh to HTTP status; others are 500
    "INVALID": 400,
    "REFUSED": 400,
    "DENIED": 403,
    "NOT_FOUND": 404,
    "CONFLICT": 409,
    "FENCED": 409,
    "MODE_BLOCKED": 409,
    "RISK_DENIED": 422,
    "OVERLOADED": 429,
    "UNAVAILABLE": 503,
    "NO_SERVICE": 503,
    "DRAINING": 503,
    "UNKNOWN_SESSION": 503,
    "BREAKER_OPEN": 503,
    "DEADLINE": 504,
    "OUTCOME_UNKNOWN": 504,
    "PROTOCOL": 502,
}
CODE_OF: Final = {400: "INVALID", 401: "UNAUTHENTICATED", 403: "DENIED", 404: "NOT_FOUND"}


@dataclass(frozen=True, slots=True)
class Mesh:
    """What the routes need of the mesh.

    quote: the last one of an instrument, plain. crashed: told of errors that are ours.
    """

    call: Call
    scope_of: Callable[[str], Scope | None]
    quote: Callable[[str], dict[str, Any] | None]
    crashed: Callable[[Exception], None]


class Problem(msgspec.Struct, frozen=True):
    """RFC 9457; code is for programs, executed says whether the effect happened."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    executed: str = "no"


class Page(msgspec.Struct, frozen=True):
    """Some of a list; next continues it."""

    items: list[dict[str, Any]]
    next: str | None = None


class ModeWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The mode wanted, and why."""

    mode: str
    reason: Annotated[str, msgspec.Meta(max_length=200)] = ""


class ModeNow(msgspec.Struct, frozen=True):
    """The mode in force; (term, mode_epoch) only grows."""

    mode: str
    mode_epoch: int
    term: int


MeshHere: TypeAlias = NamedDependency[Mesh]
Limit: TypeAlias = Annotated[int, QueryParameter(ge=1, le=1_000)]
Cursor: TypeAlias = Annotated[str | None, QueryParameter(max_length=200)]


# Without a token.


@get("/health", opt={"open": True})
async def health() -> dict[str, str]:
    """Say that this process serves; nothing about the mesh."""
    return {"status": "ok"}


@get("/dashboard.json", opt={"open": True}, include_in_schema=False)
async def dashboard(state: State) -> dict[str, int]:
    """Tell the dashboard where the gateway is."""
    return {"ws_port": state.settings.ws_port}


# The mesh.


@get("/ready")
async def ready(mesh: MeshHere) -> Response[dict[str, Any]]:
    """Say whether every node is UP, and which are not; 503 if not."""
    status = await _status(mesh)
    states = {node["node"]: node["state"] for node in status["nodes"]} | status.get("missing", {})
    is_ready = bool(states) and all(state == "UP" for state in states.values())
    return Response(
        {"ready": is_ready, "mode": status["mode"], "nodes": states},
        status_code=200 if is_ready else 503,
    )


@get("/status")
async def status(mesh: MeshHere) -> dict[str, Any]:
    """Return mode and nodes, as `genesis ps --json`."""
    return await _status(mesh)


@get("/nodes")
async def nodes(mesh: MeshHere) -> Page:
    """List the nodes."""
    return Page((await _status(mesh))["nodes"])


@get("/nodes/{name:str}")
async def node(mesh: MeshHere, name: FromPath[str]) -> dict[str, Any]:
    """Return one node."""
    for found in (await _status(mesh))["nodes"]:
        if found["node"] == name:
            return dict(found)
    raise NotFound(f"no node {name[:80]}")


@get("/mode")
async def mode(mesh: MeshHere) -> ModeNow:
    """Return the mode in force."""
    found = await _status(mesh)
    return ModeNow(found["mode"], found["mode_epoch"], found["term"])


@put("/mode")
async def set_mode(
    mesh: MeshHere, data: JSONBody[ModeWish], request: Request[Any, Scope, State]
) -> dict[str, Any]:
    """Ask for a mode: `trade` may tighten, `operate` may loosen."""
    try:
        wanted = SystemMode(data.mode.lower())
    except ValueError:
        raise HTTPException(f"mode is one of {', '.join(SystemMode)}", status_code=400) from None
    current = parse_mode((await _status(mesh))["mode"])
    needed = mode_scope(wanted=wanted.severity, current=current.severity)
    if not request.auth.covers(needed):
        raise HTTPException(f"this takes a token of scope {needed}", status_code=403)
    wish = {"mode": wanted.value, "reason": data.reason, "by": f"api.{request.auth}"}
    return _as_map(await mesh.call("mesh.set_mode", wish))


@get("/metrics", media_type=MediaType.TEXT)
async def metrics(mesh: MeshHere) -> Response[bytes]:
    """Return the figures of the whole mesh in Prometheus' text format."""
    return Response(exposition(await _status(mesh)), media_type=CONTENT_TYPE)


# Trading and market.


@get("/orders")
async def orders(mesh: MeshHere, limit: Limit = 100, cursor: Cursor = None) -> Page:
    """List orders, newest first."""
    return await _page(mesh, "execution.orders", limit, cursor)


@get("/fills")
async def fills(mesh: MeshHere, limit: Limit = 100, cursor: Cursor = None) -> Page:
    """List fills, newest first."""
    return await _page(mesh, "execution.fills", limit, cursor)


@get("/positions")
async def positions(mesh: MeshHere, limit: Limit = 100, cursor: Cursor = None) -> Page:
    """List positions."""
    return await _page(mesh, "execution.positions", limit, cursor)


@get("/balances")
async def balances(mesh: MeshHere, limit: Limit = 100, cursor: Cursor = None) -> Page:
    """List balances."""
    return await _page(mesh, "execution.balances", limit, cursor)


@get("/quotes/{instrument:str}")
async def quote(mesh: MeshHere, instrument: FromPath[str]) -> dict[str, Any]:
    """Return the last quote of an instrument."""
    found = mesh.quote(instrument)
    if found is None:
        raise NotFound(f"no quote of {instrument[:80]}")
    return found


ROUTES: Final = [
    *(health, dashboard, ready, status, nodes, node, mode, set_mode, metrics),
    *(orders, fills, positions, balances, quote),
]


async def _status(mesh: Mesh) -> dict[str, Any]:
    return _as_map(await mesh.call("coordinator.status", None))


async def _page(mesh: Mesh, method: str, limit: int, cursor: str | None) -> Page:
    reply = _as_map(await mesh.call(method, {"limit": limit, "cursor": cursor}))
    return Page(reply["items"], reply.get("next"))


def _as_map(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise RemoteProtocolError("a node answered something else than a map")
    return reply


# Doors: Host, token, errors.


def _host_guard(app: ASGIApp) -> ASGIApp:
    """Refuse names that are not ours: a page that re-bound its name to us may not read."""

    async def guarded(scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] == ScopeType.HTTP:
            allowed = scope["litestar_app"].state.settings.hosts
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in allowed:
                response = _problem(421, "DENIED", "this host name is not served here")
                asgi = response.to_asgi_response(None, Request(scope))
                await asgi(scope, receive, send)
                return
        await app(scope, receive, send)

    return guarded


def _token_guard(
    connection: ASGIConnection[Any, Any, Any, State], handler: BaseRouteHandler
) -> None:
    """Let nobody in without a token that covers the route; VIEW unless it says otherwise."""
    if handler.opt.get("open"):
        return
    kind, _, token = connection.headers.get("authorization", "").partition(" ")
    mesh: Mesh = connection.app.state.mesh
    scope = mesh.scope_of(token.strip()) if kind.lower() == "bearer" else None
    if scope is None:
        raise HTTPException(
            "a known bearer token is needed",
            status_code=401,
            headers={"WWW-Authenticate": 'Bearer realm="genesis"'},
        )
    if not scope.covers(handler.opt.get("scope", VIEW)):
        raise HTTPException(f"the token's scope {scope} does not suffice", status_code=403)
    connection.scope["auth"] = scope


def _problem(
    status_code: int,
    code: str,
    detail: str,
    *,
    executed: str = "no",
    headers: dict[str, str] | None = None,
) -> Response[Problem]:
    title = HTTPStatus(status_code).phrase
    body = Problem("about:blank", title, status_code, detail[:500], code, executed)
    return Response(body, status_code=status_code, media_type=PROBLEM, headers=headers)


def _mesh_problem(_: Request[Any, Any, Any], error: MeshError) -> Response[Problem]:
    status_code = STATUS_OF.get(error.code, 500)
    later = error.retry_after_s or (1.0 if status_code in (429, 503) else 0.0)
    headers = {"Retry-After": f"{later:.0f}"} if later else None
    return _problem(status_code, error.code, str(error), executed=error.executed, headers=headers)


def _http_problem(_: Request[Any, Any, Any], error: HTTPException) -> Response[Problem]:
    code = CODE_OF.get(error.status_code, HTTPStatus(error.status_code).name)
    detail = error.detail
    if isinstance(error.extra, list) and error.extra:
        detail = "; ".join(f"{item.get('key')}: {item.get('message')}" for item in error.extra)
    return _problem(error.status_code, code, detail, headers=error.headers)


def _crash_problem(request: Request[Any, Any, State], error: Exception) -> Response[Problem]:
    request.app.state.mesh.crashed(error)
    return _problem(500, "INTERNAL", "the error is in the log", executed="unknown")


# The whole.


def _files() -> list[Any]:
    """Return a route per file of the dashboard, read once."""
    kinds = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
    return [
        _file(path, kinds[path.suffix])
        for path in sorted(STATIC.iterdir())
        if path.suffix in kinds
    ]


def _file(path: Path, kind: str) -> Any:
    content = path.read_bytes()
    where = "/" if path.name == "index.html" else f"/{path.name}"

    @get(where, name=f"file {path.name}", opt={"open": True}, include_in_schema=False)
    async def file() -> Response[bytes]:
        return Response(content, media_type=kind)

    return file


def _headers(settings: ApiSettings) -> dict[str, str]:
    names = [host for host in settings.hosts if not host.startswith("[")]  # CSP has no IPv6
    gateways = " ".join(f"ws://{name}:{settings.ws_port}" for name in names)
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            f"connect-src 'self' {gateways}; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _openapi() -> OpenAPIConfig:
    bearer = SecurityScheme(type="http", scheme="bearer")
    return OpenAPIConfig(
        title=TITLE,
        version="1",
        description="Requests to the mesh. Tokens have the scopes view, trade and operate.",
        components=Components(security_schemes={"token": bearer}),
        security=[{"token": []}],
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],  # the others load from a CDN
        openapi_router=Router(path="/schema", route_handlers=[], opt={"open": True}),
    )


def create_app(mesh: Mesh, settings: ApiSettings) -> Litestar:
    """Return the ASGI application over *mesh*."""
    return Litestar(
        route_handlers=[*ROUTES, *_files()],
        dependencies={"mesh": Provide(lambda: mesh, sync_to_thread=False)},
        state=State({"mesh": mesh, "settings": settings}),
        guards=[_token_guard],
        middleware=[_host_guard],
        exception_handlers={
            MeshError: _mesh_problem,
            HTTPException: _http_problem,
            Exception: _crash_problem,
        },
        openapi_config=_openapi(),
        response_headers=_headers(settings),
        request_max_body_size=settings.body_bytes_max,
        logging_config=None,
    )
