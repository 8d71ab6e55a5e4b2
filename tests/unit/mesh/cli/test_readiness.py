"""What keeps a mesh from being ready, in words."""

from pathlib import Path
from typing import Any

import pytest

from mesh.cli.readiness import TAIL_BYTES, last_words, missing, trouble


def status(mode: str, wanted: str = "NORMAL", **states: str) -> dict[str, Any]:
    return {
        "mode": mode,
        "mode_wanted": wanted,
        "nodes": [{"node": node, "state": state} for node, state in states.items()],
    }


@pytest.mark.parametrize(
    ("answer", "lacking"),
    [
        (None, "the coordinator does not answer"),
        (status("SAFE", risk="UP"), "api absent"),
        (status("SAFE", risk="SUSPECT", api="UP"), "risk SUSPECT"),
        (status("SAFE", risk="UP", api="UP"), "the mode is SAFE"),
        (status("NORMAL", risk="UP", api="UP"), ""),
        (status("SAFE", wanted="SAFE", risk="UP", api="UP"), ""),
        (status("normal", risk="UP", api="UP", other="DOWN"), ""),
    ],
)
def test_all_nodes_and_then_the_mode(answer: Any, lacking: str) -> None:
    assert missing(answer, ["risk", "api"]) == lacking


def test_trouble_names_few_programs_and_the_last_words_of_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.out").write_text("Traceback\nValueError: no\n\n")
    processes = {name: {"statename": "BACKOFF"} for name in "abcd"}
    processes["e"] = {"statename": "RUNNING"}
    assert trouble(processes, tmp_path) == "; a, b, c … cannot stay up: ValueError: no"


def test_no_trouble_is_no_word(tmp_path: Path) -> None:
    assert trouble({"a": {"statename": "STARTING"}}, tmp_path) == ""


def test_the_last_words_of_a_large_file_or_of_none(tmp_path: Path) -> None:
    (tmp_path / "large.out").write_text("x" * TAIL_BYTES + "\nthe end\n")
    assert last_words(tmp_path / "large.out") == "the end"
    assert last_words(tmp_path / "absent.out") == "-"
