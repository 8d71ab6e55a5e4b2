import gzip
import json
from itertools import islice
from pathlib import Path

import pytest

from nodes.market_data.sources.normalize_cli import main
from nodes.market_data.sources.synthetic import Synthetic

Output = pytest.CaptureFixture[bytes]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    market = Synthetic(
        "BTCUSDT", seed=7, start_ns=17 * 10**17, start_ticks=10**7, events_per_s=200
    )
    lines = (b"%d %b\n" % (f.recv_ns, f.raw) for f in islice(market.frames(), 300))
    path = tmp_path / "btcusdt.gz"
    path.write_bytes(gzip.compress(b"".join(lines)))
    return path


def test_lines_go_to_stdout_and_their_count_to_stderr(capture: Path, capfdbinary: Output) -> None:
    assert main([str(capture), "--venue", "binance-spot", "--books"]) == 0
    out, err = capfdbinary.readouterr()
    kinds = {json.loads(line)["type"] for line in out.splitlines()}
    assert kinds == {"trade", "quote", "book", "status"}
    assert b"values:" in err


def test_summary_is_one_document(capture: Path, capfdbinary: Output) -> None:
    assert main([str(capture), "--venue", "binance-spot", "--summary"]) == 0
    document = json.loads(capfdbinary.readouterr().out)
    assert (document["files"], document["lines"]) == (["btcusdt.gz"], 300)


@pytest.mark.parametrize("venue", ["kraken", "coinbase"])
def test_venues_to_come_say_so(venue: str, capture: Path, capfdbinary: Output) -> None:
    assert main([str(capture), "--venue", venue]) == 2
    assert b"not yet supported" in capfdbinary.readouterr().err


def test_corrupt_capture_is_one_line_and_exit_4(tmp_path: Path, capfdbinary: Output) -> None:
    path = tmp_path / "broken.gz"
    path.write_bytes(b"\x1f\x8bnonsense")
    assert main([str(path), "--venue", "binance-spot", "--summary"]) == 4
    assert capfdbinary.readouterr().err.count(b"\n") == 1
    assert main([str(tmp_path / "none.gz"), "--venue", "binance-spot"]) == 4


@pytest.mark.parametrize("arguments", [[], ["a.gz"], ["a.gz", "--venue", "nyse"]])
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
