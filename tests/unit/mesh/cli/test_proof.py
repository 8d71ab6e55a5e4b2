"""`genesis sim`: it runs worlds, counts what went wrong in them, and says how to see it again."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mesh.cli import genesis, proof
from mesh.cli.failures import USAGE
from mesh.sim.faults import Fault, Saved, load, save
from mesh.sim.world import Violation, World

FRAGILE = "tests.unit.mesh.cli.test_proof:fragile"
# A shell that starts the tests in the background lets them, and whom they start, ignore Ctrl-C.
PROGRAM = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from mesh.cli import main; main()"
)
ENDLESS = PROGRAM, "sim", "--seeds", "100000"
FATAL = Fault(3.0, "fatal", for_s=4.0)


class Fragile:
    """A world that breaks a promise when a fatal fault happens while it is odd."""

    heal_s, horizon_s = 10.0, 11.0

    def __init__(self, world: World) -> None:
        self.world = world

    def settings(self) -> dict[str, Any]:
        return {}

    def running(self) -> nullcontext[None]:
        return nullcontext()

    def schedule(self) -> tuple[Fault, ...]:
        return (*(Fault(1.0 + number / 10, "harmless") for number in range(9)), FATAL)

    def start(self) -> None:
        """Nothing happens by itself."""

    def apply(self, number: int, fault: Fault) -> None:
        self.world.effective(number, fault.kind)
        if fault.kind == "fatal" and self.world.seed % 2:
            raise Violation("wholeness", "something broke")

    def heal(self) -> None:
        """Nothing is left to heal."""

    def finish(self) -> None:
        """All is well."""


def fragile(world: World) -> Fragile:
    return Fragile(world)


@pytest.fixture
def saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(proof, "REGRESSIONS", tmp_path)
    return tmp_path


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pids: list[int]) -> list[int]:
    """Return those that run; one that waits for its parent to look has ended."""

    def runs(pid: int) -> bool:
        try:
            return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return False

    return [pid for pid in pids if runs(pid)]


def run(*words: str) -> Result:
    return CliRunner().invoke(genesis, ["sim", *words])


def told(*words: str) -> Any:
    return json.loads(run(*words, "--json").stdout)


def test_seeds_are_run_by_processes_and_summed_up() -> None:
    answer = told("--seeds", "3", "--start", "20")
    assert answer.keys() == {"seeds", "events", "faults", "violations", "wall_s"}
    assert (answer["seeds"], answer["violations"]) == (3, [])
    assert answer["faults"] > 20
    assert answer["events"] > 3_000


def test_one_seed_is_told_for_people_with_its_trace() -> None:
    result = run("--seed", "20")
    assert result.exit_code == 0
    assert "1 seeds" in result.stdout
    assert "0 promises broken" in result.stdout
    assert "trace " in result.stdout


def test_the_story_of_a_seed_tells_what_goes_wrong_when() -> None:
    lines = run("--seed", "20", "--story").stdout.splitlines()
    faults = [line for line in lines if " FAULT " in line]
    assert len(faults) > 20
    assert faults == sorted(faults)


def test_a_broken_promise_is_told_with_the_line_that_repeats_it(saves: Path) -> None:
    result = run("--seed", "7", "--world", FRAGILE, "--json")
    (broken,) = json.loads(result.stdout)["violations"]
    assert result.exit_code == 1
    assert (broken["seed"], broken["invariant"], broken["at_s"]) == (7, "wholeness", 3.0)
    assert broken["repro"] == f"genesis sim --seed 7 --world {FRAGILE}"


def test_a_broken_promise_is_shrunk_and_saved(saves: Path) -> None:
    result = run("--seed", "7", "--world", FRAGILE)
    path = saves / "wholeness-7.json"
    line = f"genesis sim --seed 7 --faults {path} --world {FRAGILE}"
    assert result.stderr == line + "\n"
    saved = load(path.read_bytes())
    assert (saved.seed, saved.expected) == (7, "wholeness")
    assert saved.schedule == (Fault(3.0, "fatal"),)
    again = run(*line.split()[2:])
    assert again.exit_code == 1
    assert "wholeness at 3.0 s" in again.stdout


def test_a_saved_schedule_can_be_run_with_another_seed(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    path.write_bytes(save(Saved(7, (FATAL,), "wholeness", {})))
    assert run("--faults", str(path), "--world", FRAGILE).exit_code == 1
    assert run("--faults", str(path), "--world", FRAGILE, "--seed", "8").exit_code == 0


def test_a_world_of_the_first_seed_broken_is_the_one_shrunk(saves: Path) -> None:
    result = run("--seeds", "4", "--start", "2", "--world", FRAGILE)
    assert [path.name for path in saves.iterdir()] == ["wholeness-3.json"]
    assert "2 promises broken" in result.stdout


@pytest.mark.parametrize("world", ["nowhere:build", "mesh.sim.world:nothing", "mesh", ""])
def test_a_world_that_is_not_there_is_a_mistake(world: str) -> None:
    result = run("--seed", "1", "--world", world)
    assert result.exit_code == USAGE
    assert "MODULE:BUILD" in result.stderr


def test_a_file_that_is_no_schedule_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    assert run("--faults", str(path)).exit_code == USAGE
    path.write_text("{}")
    result = run("--faults", str(path))
    assert result.exit_code == USAGE
    assert "no saved schedule" in result.stderr


def test_ctrl_c_ends_it_and_its_processes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", *ENDLESS],
        cwd=Path(__file__).parents[4],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as asked:
        try:
            deadline = time.monotonic() + 15
            while len(children(asked.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            workers = children(asked.pid)
            os.killpg(asked.pid, signal.SIGINT)
            out, _ = asked.communicate(timeout=15)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(asked.pid, signal.SIGKILL)
    assert (asked.returncode, out) == (130, b"")
    while alive(workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert workers
    assert not alive(workers)
