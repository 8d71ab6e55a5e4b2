"""How the machines of the event plane are walked: bounds, fates of what is sent, topic names.

Each runs beside a trivial model of what it serves, over links that lose and repeat.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    run_state_machine_as_test,
)

CAP_BYTES = 16 * 1024
ROUNDS_MAX = 200  # of a healed world, after which it must have converged
names = st.sampled_from(("a.x", "a.y", "b.x"))
FATES = st.sampled_from(("lost", "sent", "sent", "sent", "sent twice"))


def run(machine: type[RuleBasedStateMachine], examples: int, steps: int = 50) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
