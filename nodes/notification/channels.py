"""Ways to a person: the log, and whatever apprise can reach by a URL.

Never here: which alerts are worth it. URLs carry secrets and are never shown.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from mesh.errors import ConfigError, Unavailable
from mesh.runtime.circuit import CircuitBreaker
from nodes.domain.decisions import Alert
from nodes.notification.rules import CRITICAL, INFO, WARNING

LOG: Final = "log"
TIMEOUT_S: Final = 10.0
_KINDS: Final = {INFO: "info", WARNING: "warning", CRITICAL: "failure"}


class Channels:
    """All configured ways; each is tried, none stops another.

    One that keeps failing is tried only now and then, so that it does not hold up the others. A
    delivery that does not end keeps its thread: two are enough for one to hang.
    """

    def __init__(self, urls: tuple[str, ...], write: Callable[[Alert], None]) -> None:
        """*write* puts an alert into the log; it serves the channel named "log"."""
        self._urls = urls
        self._write = write
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="notify")
        self._targets: dict[str, tuple[Any, CircuitBreaker]] = {}  # name to an apprise object

    @property
    def breakers(self) -> list[CircuitBreaker]:
        """Return the breaker of each channel that was opened."""
        return [breaker for _, breaker in self._targets.values()]

    async def open(self) -> None:
        """Load the plug-ins, if any URL needs them. Raises ConfigError for a bad URL."""
        if any(url != LOG for url in self._urls):  # 36 MiB and 0.3 s: only if wanted
            await asyncio.get_running_loop().run_in_executor(self._threads, self._load)

    async def send(self, alert: Alert) -> tuple[list[str], list[str]]:
        """Deliver to every channel; return the names that worked and those that did not.

        Cancelling leaves deliveries under way to end by themselves.
        """
        sent: list[str] = []
        failed: list[str] = []
        if LOG in self._urls:
            self._write(alert)
            sent.append(LOG)
        for name, (target, breaker) in self._targets.items():
            (sent if await self._deliver(target, breaker, alert) else failed).append(name)
        return sent, failed

    def close(self) -> None:
        """Take no more; what is under way may end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _deliver(self, target: Any, breaker: CircuitBreaker, alert: Alert) -> bool:
        try:
            await breaker.execute(self._notify, target, alert)
        except Exception:  # noqa: BLE001 # 170 plug-ins raise what they like; a failure is a failure
            return False
        return True

    async def _notify(self, target: Any, alert: Alert) -> None:
        work = asyncio.get_running_loop().run_in_executor(
            self._threads,
            lambda: target.notify(
                title=alert.title,
                body=alert.body or alert.title,
                notify_type=_KINDS[alert.severity],
            ),
        )
        if not await asyncio.wait_for(work, TIMEOUT_S):
            raise Unavailable("not delivered")

    def _load(self) -> None:
        import apprise  # here: heavy, and not needed for the log alone

        for number, url in enumerate(self._urls, 1):
            if url == LOG:
                continue
            target = apprise.Apprise()
            if not target.add(url):
                scheme = url.partition("://")[0][:20]
                raise ConfigError(f"channel {number} ({scheme}://…) is not a URL apprise knows")
            scheme = url.partition("://")[0]
            breaker = CircuitBreaker(f"notification.{number}.{scheme}", slow_s=TIMEOUT_S)
            self._targets[f"{number}:{scheme}"] = target, breaker
