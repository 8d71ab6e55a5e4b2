"""`genesis normalize` as a process of its own: output, exit code and the end of a pipe."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mesh.runtime.settings import ROOT

pytestmark = pytest.mark.system
COMMAND = [sys.executable, "-c", "from mesh.cli import main; main()", "normalize"]
TRADE = (
    b'1723161253937085768 {"stream":"btcusdt@trade","data":{"e":"trade","E":1723161253900,'
    b'"s":"BTCUSDT","t":1,"p":"61758.92","q":"0.5","T":1723161253899,"m":true,"M":true}}\n'
)


def normalize(directory: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *words],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_files_are_found_from_where_one_stands(tmp_path: Path) -> None:
    (tmp_path / "a.gz").write_bytes(gzip.compress(TRADE))
    done = normalize(tmp_path, "a.gz", "--venue", "binance-spot")
    trades = [
        line for line in map(json.loads, done.stdout.splitlines()) if line["type"] == "trade"
    ]
    assert done.returncode == 0, done.stderr
    assert [(trade["price"], trade["quantity"]) for trade in trades] == [("61758.92", "0.5")]


def test_a_folder_named_like_a_package_of_ours_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes" / "__init__.py").write_text("raise SystemExit(99)")
    done = normalize(tmp_path, "absent.gz", "--venue", "binance-spot")
    assert done.returncode == 4
    assert "absent.gz" in done.stderr
    assert done.stderr.count("\n") == 1
