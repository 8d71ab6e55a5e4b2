"""Saving: a component's state in checkpoints, and how far into which journals it reaches.

Offsets and state are saved together, so a handler changes both in one step: is it new, apply
it, reached. What a checkpoint covers of the component's own journal is released only once
every file that a restore may fall back to covers it.

Never here: what the state is, the form of the files (mesh.storage).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from mesh.errors import Unavailable
from mesh.protocol.commits import Applied
from mesh.runtime.component import Component, EventMeta
from mesh.storage.checkpoint import KEPT, Checkpointer, Ends, Upgrade

__all__ = ["Saving"]


class Saving:
    """Save and restore the state of *component* under its node's name.

    state: returns all of it as it is now, in what MessagePack holds. forget: called when a
    journal whose events made the state turns out to be another one. schema, upgrades: see
    Checkpointer. Rejected files and slow encodings are warnings in the log.
    """

    def __init__(
        self,
        component: Component,
        state: Callable[[], object],
        *,
        schema: int = 1,
        upgrades: Mapping[int, Upgrade] | None = None,
        forget: Callable[[], None] = lambda: None,
    ) -> None:
        self._component, self._state, self._forget = component, state, forget
        self._files = Checkpointer(
            component.node,
            component.paths.checkpoints,
            schema=schema,
            epoch=component.epoch,
            upgrades=upgrades,
            report=self._report,
        )
        self._reached: dict[str, Applied] = {}  # by node
        self._covered: deque[int] = deque(maxlen=KEPT)  # of our own journal, by each file
        self._turn = asyncio.Lock()
        self._changes = self._saved = 0

    def restore(self, ends: Ends | None = None) -> Any:
        """Return the newest state that verifies, or None. Blocks. Raises StorageError.

        ends: of the logs known already; a checkpoint that reaches beyond is rejected.
        """
        found = self._files.restore(ends)
        if found is None:
            return None
        self._reached = {at.node: at for at in found.positions}
        self._cover(found.positions)
        return found.state

    def start(self, period_s: float) -> None:
        """Save every *period_s* from now on if something changed; a full disk is waited for.

        With the process this ends, however it does, and another one may write.
        """
        self._component.spawn(self._save_again_and_again(period_s), "checkpoints")

    def position(self, node: str, log_id: str) -> int:
        """Return up to which offset of *node*'s journal the state has it; 0: nothing.

        If the state was made from another journal of *node*, that is forgotten.
        """
        known = self._reached.get(node)
        if known is None or known.log_id != log_id:
            if known is not None:
                self._component.log.warning("journal_is_new", node=node)
                self._forget()
            known = self._reached[node] = Applied(node, log_id, 0)
        return known.offset

    def is_new(self, meta: EventMeta) -> bool:
        """Say whether a durable event is not in the state yet."""
        return meta.offset > self.position(meta.node, meta.log_id)

    def reached(self, node: str, log_id: str, offset: int) -> None:
        """Note that the state has all of that journal up to *offset*."""
        self._reached[node] = Applied(node, log_id, offset)
        self.changed()

    def changed(self) -> None:
        """Note that the state is not what was saved."""
        self._changes += 1

    async def save(self) -> None:
        """Return once the state, as it is now or later, is on disk; it need not have changed.

        Cancelling is safe. Raises Unavailable on a full disk, StorageError on another failure.
        """
        wanted = self._changes = self._changes + 1
        async with self._turn:
            if self._saved < wanted:  # else a save that began after us has it
                await self._save()

    async def close(self) -> None:
        """Save what changed, and let another one write; for on_stop."""
        await self._save_in_turn()
        self._files.close()

    async def _save_again_and_again(self, period_s: float) -> None:
        with closing(self._files):
            while True:
                await asyncio.sleep(period_s)
                await self._save_in_turn()

    async def _save_in_turn(self) -> None:
        async with self._turn:
            if self._changes == self._saved:
                return
            try:
                await self._save()
            except Unavailable as error:  # it only shortens replay: again in the next period
                self._component.log.warning("checkpoint_unsaved", why=str(error))

    async def _save(self) -> None:
        began, positions = self._changes, tuple(self._reached.values())
        await self._files.save(self._state(), positions)
        self._saved = began
        self._cover(positions)

    def _cover(self, positions: tuple[Applied, ...]) -> None:
        """Release of our own journal what all files that are kept have."""
        component = self._component
        for node, log_id, offset in positions:
            if node == component.node and log_id == component.journal.log_id:
                self._covered.append(offset)
                if len(self._covered) == KEPT:
                    component.release(self._covered[0])

    def _report(self, line: str) -> None:
        event, _, why = line.partition(" ")
        self._component.log.warning(event, why=why)
