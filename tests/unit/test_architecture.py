"""Hold the layout to its promises: who imports whom, what stays pure, how large things get.

The layout is a promise to the reader, and this file is what keeps it. When a rule
here is in the way, change the rule in the open, together with its reason.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[2]

# Who may import whom, by longest matching prefix; "=" is the module's own package.
LOWER = ("=", "mesh.errors", "mesh.clock", "mesh.protocol")
BELOW = ("mesh.runtime", "mesh.transport", "mesh.storage")
ALLOWED = {
    "mesh": ("mesh.runtime.component",),  # the names for node authors
    "mesh.errors": (),
    "mesh.clock": (),
    "mesh.protocol": ("=", "mesh.errors"),
    "mesh.transport": LOWER,
    "mesh.storage": LOWER,
    "mesh.runtime": (*LOWER, *BELOW),
    "mesh.sim": (*LOWER, "mesh.runtime"),
    "mesh.sim.loopback": (*LOWER, *BELOW),
    "mesh.sim.memory": (*LOWER, *BELOW),
    "mesh.cli": ("mesh",),
    "nodes": ("=", "nodes.domain", "mesh.errors", "mesh.protocol"),
    "nodes.domain": ("=", "mesh.errors"),
    "nodes.topology": ("nodes.domain", "mesh.protocol"),
    "nodes.simmesh": ("nodes", "mesh"),  # all cores on the simulated world; no node imports it
}

# Edges touch the world; every node's __main__, and its node.py that wires the core to the
# mesh, are edges too. All else in nodes/ is pure: told the time, given the bytes, handed the
# dice.
EDGES = (
    "nodes.coordinator.guardian",
    "nodes.market_data.sources",
    "nodes.market_data.capture",
    "nodes.strategy.loader",
    "nodes.execution.venues",
    "nodes.execution.deadman",
    "nodes.paper_venue.feed",
    "nodes.notification.channels",
    "nodes.recorder.sqlite",
    "nodes.recorder.postgres",
    "nodes.gateway.server",
    "nodes.api.app",
    "nodes.api.metrics",
)
WIRING = re.compile(r"nodes\.\w+\.(__main__|node)")
PURE_AMONG_EDGES = ("nodes.market_data.sources.synthetic",)
EDGE_ALLOWED = ("mesh.clock", "mesh.transport", "mesh.storage", "mesh.runtime", "nodes.topology")

# The mesh for authors' tests runs nodes and the runtime as they are, so it needs asyncio, and
# what stands for sockets speaks like zmq. Time, dice and disks are simulated all the same; no
# other module of mesh.sim imports it, for then pure code would load zmq.
DOUBLE = ("mesh.sim.loopback", "mesh.sim.memory")

PURE = ("mesh.errors", "mesh.protocol", "mesh.sim", "nodes")
IMPURE_STDLIB = """
    asyncio concurrent ctypes fcntl http logging mmap multiprocessing os pathlib queue random
    sched secrets select selectors shutil signal smtplib socket socketserver ssl subprocess
    tempfile threading time urllib uuid xmlrpc
"""

# Each library has its home, so that one place knows its quirks and one place replaces it.
HOMES = {
    "apprise": ("nodes.notification",),
    "ccxt": ("nodes.market_data", "nodes.execution"),
    "click": ("mesh.cli",),
    "litestar": ("nodes.api",),
    "msgpack": (
        "mesh.cli",
    ),  # interop: `genesis tail` of unknown schemas; bench, clients, golden frames
    "msgspec": ("mesh", "nodes"),
    "numpy": ("nodes.analysis", "nodes.strategy.indicators"),  # what talib eats
    "prometheus_client": ("nodes.api",),
    "psycopg": ("nodes.recorder", "mesh.storage"),  # mesh.storage: the lease of several hosts
    "rich": ("mesh.cli",),
    "sqlite3": ("mesh.storage", "nodes.recorder"),
    "supervisor": ("mesh.cli", "nodes.coordinator"),
    "talib": ("nodes.analysis", "nodes.strategy.indicators"),
    "uvicorn": ("nodes.api",),
    "uvloop": ("mesh.runtime",),
    "websockets": ("nodes.gateway", "nodes.market_data", "nodes.execution"),
    "zmq": ("mesh.transport", "mesh.sim.memory"),
}
PURE_LIBRARIES = ("msgspec", "numpy", "talib")

MODULE_LINES_MAX = 400
MAIN_LINES_MAX = 60  # __main__ is wiring
FUNCTION_LINES_MAX = 60  # docstring not counted
NESTING_MAX = 4

Fault: TypeAlias = tuple[int, str]  # line number, what is wrong there
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (
    *(ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith),
    *(ast.Try, ast.TryStar, ast.Match),
)


def within(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def is_edge(name: str) -> bool:
    if WIRING.fullmatch(name):
        return True
    return within(name, *EDGES) and not within(name, *PURE_AMONG_EDGES)


def is_pure(name: str) -> bool:
    return within(name, *PURE) and not is_edge(name) and not within(name, *DOUBLE)


def allowed(name: str) -> Iterator[str]:
    """Yield the prefixes of what module *name* may import from this repository."""
    for prefix in ALLOWED[max((p for p in ALLOWED if within(name, p)), key=len)]:
        yield ".".join(name.split(".")[:2]) if prefix == "=" else prefix
    if is_edge(name):
        yield from EDGE_ALLOWED


def wrong_import(name: str, target: str) -> str | None:
    """Say what is wrong with module *name* importing *target*; None if nothing is."""
    top = target.partition(".")[0]
    pure = is_pure(name)
    if top in ("mesh", "nodes"):
        return None if within(target, *allowed(name)) else "is the wrong direction"
    if top in HOMES:
        if not within(name, *HOMES[top]):
            return f"belongs in {HOMES[top]}"
        return "does I/O in a pure module" if pure and top not in PURE_LIBRARIES else None
    if top not in sys.stdlib_module_names:
        return "is not among the chosen libraries"
    if top == "random" and within(name, "mesh.sim"):
        return None  # the simulated world seeds the dice it hands out
    if pure and top in IMPURE_STDLIB.split():
        return "brings time, dice or I/O into a pure module"
    return None


def imports(package: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything imported, wherever in the module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            for alias in node.names:
                source = [*above, *filter(None, [node.module]), alias.name]
                yield node.lineno, ".".join(source)


def import_faults(name: str, package: str, tree: ast.Module) -> Iterator[Fault]:
    for line, target in imports(package, tree):
        if fault := wrong_import(name, target):
            yield line, f"import of {target} {fault}"


def depth(node: ast.AST) -> int:
    """Count blocks inside blocks; an elif is as deep as its if."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child) - is_elif)
    return deepest + isinstance(node, BLOCKS)


def body_lines(function: Function) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def size_faults(name: str, source: str, tree: ast.Module) -> Iterator[Fault]:
    lines_max = MAIN_LINES_MAX if name.endswith(".__main__") else MODULE_LINES_MAX
    if len(source.splitlines()) > lines_max:
        yield 1, f"the module is longer than {lines_max} lines"
    for node in ast.walk(tree):
        if isinstance(node, FUNCTIONS):
            if body_lines(node) > FUNCTION_LINES_MAX:
                yield node.lineno, f"{node.name} is longer than {FUNCTION_LINES_MAX} lines"
            if depth(node) > NESTING_MAX:
                yield node.lineno, f"{node.name} nests deeper than {NESTING_MAX}"


def waiting_faults(name: str, tree: ast.Module) -> Iterator[Fault]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.AsyncFunctionDef)
            and is_pure(name)
            and not within(name, "mesh.sim")
        ):
            yield node.lineno, f"{node.name} is async in a pure module"


def blind_faults(source: str, tree: ast.Module) -> Iterator[Fault]:
    """Find broad excepts without a reason written beside them."""
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = ast.unparse(node.type) if node.type else "Exception"
        reason = re.sub(r"noqa: [A-Z0-9, ]+", "", lines[node.lineno - 1].partition("#")[2])
        if re.search(r"\b(Base)?Exception\b", caught) and not re.search(r"\w", reason):
            yield node.lineno, f"except {caught} without its reason beside it"


def faults(name: str, source: str, *, is_package: bool = False) -> list[Fault]:
    """List everything wrong with a module, from its dotted name and its text."""
    tree = ast.parse(source)
    return [
        *([] if ast.get_docstring(tree) else [(1, "no docstring: what is here, what never?")]),
        *import_faults(name, name if is_package else name.rpartition(".")[0], tree),
        *size_faults(name, source, tree),
        *waiting_faults(name, tree),
        *blind_faults(source, tree),
    ]


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = sorted(path for top in ("mesh", "nodes") for path in (ROOT / top).rglob("*.py"))
PURE_PATHS = [path for path in PATHS if is_pure(dotted(path))]


@pytest.mark.parametrize("path", PATHS, ids=dotted)
def test_module_keeps_the_rules(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    found = faults(dotted(path), source, is_package=path.name == "__init__.py")
    assert not found, "\n".join(f"{path.relative_to(ROOT)}:{line}: {what}" for line, what in found)


@pytest.mark.parametrize("path", PURE_PATHS, ids=dotted)
def test_pure_module_has_its_unit_test(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    mirror = Path("tests/unit", *path.relative_to(ROOT).parts[:-1], f"test_{path.name}")
    if any(isinstance(node, FUNCTIONS) for node in ast.walk(tree)):
        assert (ROOT / mirror).exists(), f"{mirror} is missing"


def test_pure_code_loads_no_library() -> None:
    """Imports reach further than they read: a package's __init__ is imported as well."""
    program = "\n".join(["import sys", *(f"import {dotted(p)}" for p in PURE_PATHS)])
    answer = subprocess.run(
        [sys.executable, "-c", program + "\nprint(*sys.modules)"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    loaded = {name.partition(".")[0] for name in answer.stdout.split()}
    assert not (loaded & HOMES.keys()).difference(PURE_LIBRARIES)


@pytest.mark.parametrize(
    ("name", "target", "fine"),
    [
        ("mesh", "mesh.transport.pubsub", False),
        ("mesh.protocol.membership", "mesh.errors.MeshError", True),
        ("mesh.protocol.membership", "mesh.protocol.liveness", True),
        ("mesh.protocol.membership", "mesh.transport.pubsub", False),
        ("mesh.protocol.membership", "mesh.clock", False),
        ("mesh.protocol.membership", "time", False),
        ("mesh.protocol.backoff", "random.Random", False),
        ("mesh.protocol.envelope", "msgspec", True),
        ("mesh.protocol.envelope", "msgpack", False),
        ("mesh.transport.link", "zmq", True),
        ("mesh.transport.rpc", "mesh.runtime.runner", False),
        ("mesh.storage.journal", "sqlite3", True),
        ("mesh.runtime.runner", "uvloop", True),
        ("mesh.runtime.runner", "nodes.domain.orders", False),
        ("mesh.sim.world", "random.Random", True),
        ("mesh.sim.world", "time", False),
        ("mesh.sim.world", "asyncio", False),
        ("mesh.sim.loopback", "mesh.transport.sockets", True),
        ("mesh.sim.memory.loop", "asyncio", True),
        ("mesh.sim.memory.sockets", "zmq", True),
        ("mesh.sim.loopback", "zmq", False),
        ("mesh.runtime.runner", "mesh.sim.loopback", False),
        ("mesh.cli.watch", "rich.live", True),
        ("mesh.cli.watch", "nodes.topology", False),
        ("nodes.domain.orders", "msgspec", True),
        ("nodes.domain.orders", "mesh.protocol.envelope", False),
        ("nodes.risk.gatekeeper", "nodes.domain.orders", True),
        ("nodes.risk.gatekeeper", "nodes.risk.limits", True),
        ("nodes.risk.gatekeeper", "nodes.execution.ledger", False),
        ("nodes.risk.gatekeeper", "mesh.protocol.effects.Publish", True),
        ("nodes.risk.gatekeeper", "mesh.runtime.runner", False),
        ("nodes.risk.gatekeeper", "uuid", False),
        ("nodes.risk.__main__", "mesh.runtime.runner", True),
        ("nodes.risk.__main__", "nodes.topology", True),
        ("nodes.risk.__main__", "nodes.execution.ledger", False),
        ("nodes.risk.__main__", "mesh.sim.world", False),
        ("nodes.risk.__main__", "requests", False),
        ("nodes.risk.__main__", "nodes.simmesh", False),
        ("nodes.risk.node", "mesh.runtime.component", True),
        ("nodes.risk.node", "asyncio", True),
        ("nodes.risk.node", "nodes.execution.node", False),
        ("nodes.risk.node", "zmq", False),
        ("nodes.risk.gatekeeper", "nodes.topology", False),
        ("nodes.simmesh", "nodes.execution.ledger", True),
        ("nodes.simmesh", "mesh.sim.world", True),
        ("nodes.analysis.indicators", "talib.stream", True),
        ("nodes.strategy.indicators", "talib.stream", True),
        ("nodes.strategy.ema_cross", "talib", False),
        ("nodes.recorder.postgres", "psycopg", True),
        ("nodes.recorder.batch", "psycopg", False),
        ("nodes.gateway.server", "websockets.asyncio.server", True),
        ("nodes.gateway.session", "websockets", False),
        ("nodes.market_data.sources.replay", "asyncio", True),
        ("nodes.market_data.sources.synthetic", "random", False),
        ("nodes.api.app", "litestar", True),
        ("nodes.gateway.server", "litestar", False),
    ],
)
def test_import_rules(name: str, target: str, fine: bool) -> None:
    assert (wrong_import(name, target) is None) is fine


NESTED = "def f():\n for a in b:\n  if a:\n   with a:\n    if a:\n     a\n    elif b:\n     b\n"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from . import exposure\nfrom .limits import Limit\nfrom ..execution import ledger", [4]),
        ("def f():\n" + " a\n" * FUNCTION_LINES_MAX, []),
        ("def f():\n" + " a\n" * (FUNCTION_LINES_MAX + 1), [2]),
        ("a\n" * MODULE_LINES_MAX, [1]),
        (NESTED, []),
        (NESTED + "     for c in b:\n      c\n", [2]),
        ("async def f(): ...", [2]),
        ("try: a\nexcept Exception: b", [3]),
        ("try: a\nexcept (ValueError, Exception):  # noqa: BLE001\n b", [3]),
        ("try: a\nexcept:  # a plug-in may raise anything\n b", []),
        ("try: a\nexcept ExceptionGroup: b", []),
    ],
)
def test_source_rules(source: str, expected: list[int]) -> None:
    found = faults("nodes.risk.gatekeeper", f'"""A docstring."""\n{source}')
    assert [line for line, _ in found] == expected
