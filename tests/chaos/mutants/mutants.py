"""Mutants of the event plane: one wrong line each, and the seed whose world notices.

A mutant is a patch of source, applied to a copy of mesh/ that a process of its own imports.
`python -m tests.chaos.mutants.hunt` looks for killers from fresh seeds.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]
ELSEWHERE = shutil.ignore_patterns("cli", "runtime", "storage", "transport")
PROGRAM = """
import importlib, sys
from mesh.sim.world import World
build = importlib.import_module(f"mesh.sim.{sys.argv[1]}").build
for seed in map(int, sys.argv[2:]):
    found = World(seed, build).run().violations
    if found:
        print(seed, found[0].invariant)
        break
"""


class Mutant(NamedTuple):
    """One wrong line. seed: of the world that kills it; invariant: what it breaks there.

    world: the module of mesh.sim that builds it.
    """

    name: str
    file: str
    right: str
    wrong: str
    seed: int
    invariant: str
    world: str = "eventplane"


SEQUENCE, SYNC, CATCHUP = "protocol/sequence.py", "protocol/sync.py", "protocol/catchup.py"
VALUES, OUTBOUND, COMMITS = "protocol/lastvalue.py", "protocol/outbound.py", "protocol/commits.py"

MUTANTS = [
    Mutant(
        "gap-blind",
        SEQUENCE,
        "return DELIVER, None if seq == expected else self._gap(topic, expected, seq - 1)",
        "return DELIVER, None",
        1,
        "hole",
    ),
    Mutant(
        "tail gap ignored",
        SEQUENCE,
        "            if last >= (first := known or 1):",
        "            if last < (first := known or 1):",
        20,
        "tail",
    ),
    Mutant(
        "HEAD hides a gap",
        SEQUENCE,
        "            if self.synced and last >= first:",
        "            if self.synced and last < first:",
        1,
        "false-gap",
    ),
    Mutant(
        "duplicate not dropped",
        SEQUENCE,
        "            return DUPLICATE, None",
        "            return DELIVER, None",
        1,
        "twice",
    ),
    Mutant(
        "old epoch accepted",
        SEQUENCE,
        "                return STALE, None\n            self._begin(epoch)",
        "                return DELIVER, None\n            self._begin(epoch)",
        13,
        "old-epoch",
    ),
    Mutant(
        "early frames delivered before HEAD",
        SEQUENCE,
        "            return DELIVER if self.synced else EARLY, None",
        "            return DELIVER, None",
        4,
        "early",
    ),
    Mutant(
        "early frame that overtook HEAD hides a gap",
        SEQUENCE,
        "            self.expected.clear()  # an EARLY",
        "            pass  # an EARLY",
        5,
        "hole",
    ),
    Mutant(
        "forgets what another prefix hears",
        SEQUENCE,
        "            if not any(topics.matches(other, topic) for other in kept):",
        "            if prefix:",
        1,
        "false-gap",
    ),
    Mutant(
        "widen without baseline",
        SYNC,
        "        self.tracker.widen(before)\n",
        "",
        1,
        "false-gap",
    ),
    Mutant(
        "frames of dropped topics judged",
        SYNC,
        "            return UNWANTED, None",
        "            pass",
        15,
        "false-gap",
    ),
    Mutant(
        "HEAD accepted before all pages",
        SYNC,
        "if self._page == head.pages else []",
        "if self._page else []",
        4,
        "false-gap",
    ),
    Mutant(
        "new run heard without its HEAD",
        SYNC,
        "        if self.tracker.synced:\n            self.state = LIVE",
        "        if self.tracker.epoch:\n            self.state = LIVE",
        44,
        "behind",
    ),
    Mutant(
        "snapshot applied over a newer live value",
        VALUES,
        "(known.epoch, known.seq) > (event.epoch, event.seq)",
        "known.epoch > event.epoch",
        5,
        "older-value",
    ),
    Mutant(
        "live value applied over a newer snapshot",
        VALUES,
        "(known.epoch, known.seq) >= (event.epoch, event.seq)",
        "known.epoch > event.epoch",
        6,
        "older-value",
    ),
    Mutant(
        "tombstone forgotten while a snapshot is under way",
        VALUES,
        "                self.gone[topic] = event.seq",
        "                pass",
        26,
        "older-value",
    ),
    Mutant(
        "values of an earlier run kept",
        VALUES,
        "        self.stale.update(self.values)",
        "        pass",
        8,
        "last-value",
    ),
    Mutant(
        "tombstone forgotten in the snapshot",
        OUTBOUND,
        "            self.last_values.pop(topic, None)",
        "            pass",
        1,
        "older-value",
    ),
    Mutant(
        "beacon without what moved",
        OUTBOUND,
        "islice(_in_turn(moved, others), BEACON_HEADS)",
        "islice(others, BEACON_HEADS)",
        20,
        "tail",
    ),
    Mutant(
        "refused group keeps its numbers",
        COMMITS,
        '        assert self._group is not None, "no group was under way"\n',
        '        assert self._group is not None, "no group was under way"\n'
        "        self.last += len(self._group.records)\n",
        2,
        "machine-check",
    ),
    Mutant(
        "patient wishes forgotten by a full disk",
        COMMITS,
        "reversed([wish for wish in wishes if wish.patient])",
        "[]",
        4,
        "behind",
    ),
    Mutant(
        "index ignored",
        CATCHUP,
        "            if offset > self.announced and self._hears(topic)\n",
        "            if offset > self.announced and self._hears(topic) and not topic\n",
        1,
        "skipped",
    ),
    Mutant(
        "live delivered while fetching",
        CATCHUP,
        "        if self.stage is LIVE and len(self.ready) < READY_MAX:",
        "        if len(self.ready) < READY_MAX:",
        6,
        "machine-check",
    ),
    Mutant(
        "buffer dropped without refetch",
        CATCHUP,
        "            self.overflows += 1\n            self._aim(offset)",
        "            self.overflows += 1",
        3,
        "skipped",
    ),
    Mutant(
        "durable beacon ignored",
        CATCHUP,
        "        if stream.last > self.announced or (",
        "        if stream.last < 0 or (",
        20,
        "behind",
    ),
    Mutant(
        "last page's through taken as to",
        CATCHUP,
        "            self._pages[asked.after] = (through, within)",
        "            self._pages[asked.after] = (asked.to, within)",
        6,
        "skipped",
    ),
    Mutant(
        "retention without a notice",
        CATCHUP,
        "        return [gone]",
        "        return []",
        4,
        "skipped",
    ),
    Mutant(
        "old copy of a journal goes unnoticed",
        CATCHUP,
        "        elif began and stream.last < self.announced:",
        "        elif began and stream.last < 0:",
        45,
        "silent",
    ),
    Mutant(
        "offset of a former journal confirmed",
        CATCHUP,
        "        self.taken.clear()\n        self._clear()",
        "        self._clear()",
        44,
        "machine-check",
    ),
    Mutant(
        "failed records not given back",
        CATCHUP,
        "            self.ready.extendleft(reversed(self.taken))",
        "            pass",
        5,
        "skipped",
    ),
    Mutant(
        "failed records given back in reverse",
        CATCHUP,
        "            self.ready.extendleft(reversed(self.taken))",
        "            self.ready.extendleft(self.taken)",
        5,
        "machine-check",
    ),
    Mutant(
        "what is being applied confirmed",
        CATCHUP,
        "        if not self.ready and not self.taken and self.stage is not HALTED:",
        "        if not self.ready and self.stage is not HALTED:",
        1,
        "skipped",
    ),
    Mutant(
        "records out of reach confirmed",
        CATCHUP,
        "            self.position = self.due[0] - 1 if self.due else self.announced",
        "            self.position = self.announced",
        1,
        "skipped",
    ),
    Mutant(
        "acknowledged before the commit",
        "sim/publisher.py",
        "            self.disk.write(group, lambda stored: self._written(group, stored=stored))",
        "            self.disk.write(group, lambda _: None); self._written(group, stored=True)",
        1,
        "ack-before-commit",
    ),
    Mutant(
        "published before the commit",
        "sim/publisher.py",
        "            self.disk.write(group,",
        "            [self.send(record.frame) for record in group.records]\n"
        "            self.disk.write(group,",
        2,
        "phantom",
    ),
    Mutant(
        "offset stored outside the effect's transaction",
        "sim/subscriber.py",
        "Wish(lambda _: done(), effects, applied, patient=True)",
        "Wish(lambda _: done(), effects, patient=True)\n"
        "        self.ledger.add(Wish(_nobody, (), applied))",
        3,
        "torn",
    ),
    Mutant(
        "epoch from the wall clock alone",
        "sim/publisher.py",
        "max(disk.epoch + 1, process.wall_ns() // 10**6)",
        "process.wall_ns() // 10**6",
        4,
        "not-live",
    ),
    Mutant(
        "snapshot of two runs believed",
        "sim/eventfeed.py",
        "if reply is None or not run == epoch == self.link.tracker.epoch:",
        "if reply is None:",
        316,
        "last-value",
    ),
]


def patched(mutant: Mutant, folder: Path) -> Path:
    """Return *folder* with a copy of mesh/ in it that has the wrong line."""
    shutil.copytree(ROOT / "mesh", folder / "mesh", ignore=ELSEWHERE)
    path = folder / "mesh" / mutant.file
    source = path.read_text(encoding="utf-8")
    assert source.count(mutant.right) == 1, f"{mutant.name}: its line is there once, or is not"
    path.write_text(source.replace(mutant.right, mutant.wrong), encoding="utf-8")
    return folder


def broken_by(folder: Path, world: str, *seeds: int) -> tuple[int, str] | None:
    """Return the first of *seeds* whose *world* breaks in *folder*, and what it breaks."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM, world, *map(str, seeds)],
        env={"PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    seed, _, invariant = done.stdout.strip().partition(" ")
    return (int(seed), invariant) if invariant else None
