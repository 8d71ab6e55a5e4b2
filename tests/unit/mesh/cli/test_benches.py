"""genesis bench: the document it prints, in few rounds; the figures are nobody's business here."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from mesh.cli import benches, genesis
from mesh.cli.failures import NOT_FOUND, USAGE

# A shell that starts the tests in the background lets them, and whom they start, ignore Ctrl-C.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from mesh.cli import main; main()"
)
COMMAND = [sys.executable, "-c", PROGRAM, "bench", "events", "--quick"]
INTERRUPTED = 130
HOLDS = {
    "events": ["mesh", "mesh", "batch", "durable publish", "durable sustained", "late joiner"],
    "requests": ["round trip", "overload", "refusal", "memory", "guard"],
}
COMPARED = {"events": ("mesh", {"p50_us", "per_s"}), "requests": ("round trip", {"p50_us"})}


@pytest.mark.timeout(60)  # the overload lasts some seconds, however fast the machine
@pytest.mark.parametrize("name", HOLDS)
def test_planes_are_measured_and_judged_in_one_document(name: str) -> None:
    command = [name if word == "events" else word for word in COMMAND]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == {"name", "machine", "commit", "results", "ok"}
    assert found["name"] == name
    rows = {row["what"]: row for row in found["results"]}
    what, figures = COMPARED[name]
    assert {"p50_us", "p99_us", "p999_us", *figures} <= rows[what].keys()
    assert rows[what]["ratio_to"]["floor"].keys() == figures
    judged = [(what, limit) for what, row in rows.items() for limit in row.get("limits", ())]
    assert [what for what, _ in judged] == HOLDS[name]
    for _, limit in judged:
        kept = (
            limit["is"] <= limit["at_most"]
            if "at_most" in limit
            else limit["is"] >= limit["at_least"]
        )
        assert limit["ok"] is kept
    assert found["ok"] is all(limit["ok"] for _, limit in judged)
    assert done.stderr == ""


def test_ctrl_c_ends_it_without_a_word_and_leaves_no_process() -> None:
    with subprocess.Popen(
        COMMAND[:-1],  # long enough for any machine to be interrupted in it
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # the terminal's group, to which Ctrl-C goes
    ) as process:
        group = process.pid
        try:
            while len(members(group)) < 3:  # the verb, the measurement, its publisher
                assert process.poll() is None
            os.killpg(group, signal.SIGINT)
            out, err = process.communicate(timeout=15)
            assert (process.returncode, out, err) == (INTERRUPTED, "", "")
            assert not members(group)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


def members(group: int) -> list[str]:
    """Return the processes of a group that have not ended, by their pids."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = path.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                found.append(path.parent.name)
    return found


def test_unknown_name_is_one_line() -> None:
    done = subprocess.run([*COMMAND[:-2], "evnts"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert done.stderr.startswith("genesis: no bench 'evnts'; ")
    assert done.stderr.count("\n") == 1


def test_package_without_a_checkout_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benches, "BENCH", tmp_path / "bench" / "__main__.py")
    result = CliRunner().invoke(genesis, ["bench", "events"], prog_name="genesis")
    assert result.exit_code == NOT_FOUND
    assert (
        result.stderr == "genesis: bench/ comes with a checkout of Genesis, not with the package\n"
    )
