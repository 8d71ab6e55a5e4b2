"""What a circuit breaker costs each call: its guard, against a bare function call.

Target: the guard (admit and record) takes 1 µs at most. Rounds alternate, so that noise of
the machine meets all of them; the least of the rounds is shown, which noise does not reach.
Run it with `python -m bench.breaker [--json]`.

Never here: assertions.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Callable
from typing import Any, Final

from bench.report import document, show
from mesh.protocol.breaker import Breaker
from mesh.runtime.circuit import CircuitBreaker

ROUNDS: Final = 200
CALLS: Final = 1_000


def measure() -> list[dict[str, Any]]:
    """Return rows of ns a call, each with its ratio to a bare function call in the same run."""
    loops = {"bare call": bare, "guard": guard, "guard, locked": locked, "execute": executed}
    best = dict.fromkeys(loops, float("inf"))
    for _ in range(ROUNDS):
        for what, loop in loops.items():
            best[what] = min(best[what], loop() / CALLS * 1e9)
    floor = best["bare call"]
    return [
        {"what": what, "ns": round(ns), "ratio_to": {"bare call": {"ns": round(ns / floor, 1)}}}
        for what, ns in best.items()
    ]


def nothing() -> None:
    """Be called."""


def timed(loop: Callable[[], None]) -> float:
    """Return the seconds of *loop*."""
    began = time.perf_counter()
    loop()
    return time.perf_counter() - began


def bare() -> float:
    """Call a function that does nothing."""

    def loop() -> None:
        for _ in range(CALLS):
            nothing()

    return timed(loop)


def guard() -> float:
    """Ask the pure machine and tell it, as its shell does on a healthy callee."""
    breaker = Breaker(3, 2.0, random.random)

    def loop() -> None:
        admit, record = breaker.admit, breaker.record
        for n in range(CALLS):
            now = n / 1_000
            permit = admit(now)
            assert permit is not None
            record(permit, succeeded=True, now=now, took_s=0.01)

    return timed(loop)


def locked() -> float:
    """Do the same through its shell: clock, context and lock included, both times."""
    breaker = CircuitBreaker("bench")

    def loop() -> None:
        admit, record = breaker.admit, breaker.record
        for _ in range(CALLS):
            record(admit(), succeeded=True)

    return timed(loop)


def executed() -> float:
    """Guard a function that does nothing with execute()."""
    breaker = CircuitBreaker("bench")

    async def loop() -> float:
        began = time.perf_counter()
        for _ in range(CALLS):
            await breaker.execute(nothing)
        return time.perf_counter() - began

    return asyncio.run(loop())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.breaker", description=measure.__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    show(document("breaker", measure()), as_json=parser.parse_args().json)


if __name__ == "__main__":
    main()
