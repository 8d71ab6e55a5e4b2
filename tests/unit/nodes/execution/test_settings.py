"""Settings of execution: times are positive."""

import pytest

from mesh.errors import Invalid
from nodes.execution.settings import ExecutionSettings


@pytest.mark.parametrize("window_ms", [1, 0])
def test_times_are_above_zero(window_ms: int) -> None:
    def make() -> ExecutionSettings:
        return ExecutionSettings(
            account="paper",
            place_timeout_s=2.0,
            query_timeout_s=1.0,
            reply_budget_s=1.0,
            approval_age_max_ms=1000,
            absence_window_ms=window_ms,
        )

    if window_ms:
        assert make().absence_window_ms == window_ms
    else:
        with pytest.raises(Invalid, match="absence_window_ms"):
            make()
