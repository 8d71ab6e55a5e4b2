"""Logs: whole lines from many processes, rotation without loss, no secrets."""

import json
import multiprocessing
from pathlib import Path

from mesh.runtime.logs import Logs, redact


def write_many(directory: Path, node: str, lines: int) -> None:
    log = Logs(directory, node, 1, level="INFO", rotate_bytes=20_000, kept=100)
    for n in range(lines):
        log.warning("step", n=n, text="x" * 50)
    log.close()


def test_four_processes_lose_no_line_over_rotations(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(tmp_path, f"n{k}", 300)) for k in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    seen = [
        (entry["node"], entry["fields"]["n"])
        for path in tmp_path.glob("app.log*")
        for entry in map(json.loads, path.read_text().splitlines())
    ]
    assert len(list(tmp_path.glob("app.log.*"))) > 3
    assert sorted(seen) == sorted((f"n{k}", n) for k in range(4) for n in range(300))


def test_secrets_never_reach_the_file(tmp_path: Path) -> None:
    log = Logs(tmp_path, "n", 1, level="INFO", rotate_bytes=1 << 20, kept=1)
    log.info("database", url="postgresql://genesis:hunter2@db/x", header="token=abc123def")
    log.close()
    text = (tmp_path / "app.log").read_text()
    assert "hunter2" not in text
    assert "abc123def" not in text


def test_data_cannot_forge_a_line(tmp_path: Path) -> None:
    log = Logs(tmp_path, "n", 1, level="INFO", rotate_bytes=1 << 20, kept=1)
    log.info("said", text='a\n{"level":"ERROR"}')
    log.info("huge", text="y" * 100_000)
    log.close()
    assert len((tmp_path / "app.log").read_text().splitlines()) == 2


def test_levels_and_files(tmp_path: Path) -> None:
    log = Logs(tmp_path, "n", 1, level="INFO", rotate_bytes=1 << 20, kept=1)
    log.debug("hidden")
    log.info("shown")
    log.failure("broken", ValueError("why"))
    log.performance(events_in=3)
    log.close()
    events = [json.loads(x)["event"] for x in (tmp_path / "app.log").read_text().splitlines()]
    assert events == ["shown", "broken"]
    assert "ValueError" in (tmp_path / "error.log").read_text()
    assert json.loads((tmp_path / "performance.log").read_text())["fields"] == {"events_in": 3}


def test_redaction_keeps_the_rest() -> None:
    assert redact("postgresql://u:p@h:1/d") == "postgresql://u:***@h:1/d"
