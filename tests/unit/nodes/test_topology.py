"""Topology: the table, the code, the configuration and supervisord.conf say the same."""

import configparser
import importlib
import inspect
import tomllib
from pathlib import Path

import pytest

from mesh.runtime.component import Component
from nodes.topology import TOPOLOGY, NodeRow

ROOT = Path(__file__).parents[3]


def component(package: str) -> type[Component]:
    module = importlib.import_module(f"nodes.{package}.node")
    (found,) = (
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, Component)
        and value.__module__ == module.__name__
    )
    return found


def marks(kind: type[Component], name: str) -> list[object]:
    return [getattr(value, name) for _, value in inspect.getmembers(kind) if hasattr(value, name)]


@pytest.mark.parametrize(("node", "row"), TOPOLOGY.items(), ids=TOPOLOGY)
def test_node_says_hears_and_answers_what_the_table_holds(node: str, row: NodeRow) -> None:
    kind = component(row.package)
    hears = {mark.prefix for found in marks(kind, "event_marks") for mark in found}  # type: ignore[attr-defined]  # lists of marks
    answers = {mark.method for mark in marks(kind, "request_mark")}  # type: ignore[attr-defined]  # marks
    assert hears == set(row.hears)
    assert set(kind.says) == set(row.says)
    assert answers == set(row.answers)


def test_what_is_heard_is_said_by_somebody() -> None:
    said = [prefix for row in TOPOLOGY.values() for prefix in row.says] + ["!hb"]
    for node, row in TOPOLOGY.items():
        for prefix in row.hears:
            assert any(p.startswith(prefix) or prefix.startswith(p) for p in said), (node, prefix)


def test_supervisord_runs_exactly_these_nodes() -> None:
    parser = configparser.RawConfigParser()
    parser.read(ROOT / "supervisord.conf")
    programs = {s.removeprefix("program:") for s in parser.sections() if s.startswith("program:")}
    assert programs == set(TOPOLOGY)
    for node, row in TOPOLOGY.items():
        assert f"-m nodes.{row.package}" in parser[f"program:{node}"]["command"]


def test_coordinator_expects_exactly_these_nodes() -> None:
    config = tomllib.loads((ROOT / "config/genesis.toml").read_text())
    assert set(config["coordinator"]["expected"]) == set(TOPOLOGY)
    for node in TOPOLOGY:
        section = config
        for part in node.split("."):
            section = section[part]
        assert section, node
