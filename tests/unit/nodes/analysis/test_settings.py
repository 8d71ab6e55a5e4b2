"""Settings of analysis refuse what cannot be made. Never here: files."""

import pytest

from mesh.errors import Invalid
from nodes.analysis.settings import AnalysisSettings


def settings(**changed: object) -> AnalysisSettings:
    given: dict[str, object] = {
        "intervals": ("1s", "1m"),
        "close_delay_ms": 500,
        "empty_bars_max": 100,
        "indicators": ("ema_3",),
        "history_bars": 10,
        "checkpoint_s": 60.0,
    }
    return AnalysisSettings(**given | changed)  # type: ignore[arg-type]  # wrong ones too


def test_a_right_section_is_taken() -> None:
    assert settings().intervals == ("1s", "1m")


@pytest.mark.parametrize(
    "changed",
    [
        {"intervals": ("1x",)},
        {"indicators": ("what_3",)},
        {"history_bars": 0},
        {"checkpoint_s": 0.0},
    ],
)
def test_what_cannot_be_made_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(Invalid):
        settings(**changed)
