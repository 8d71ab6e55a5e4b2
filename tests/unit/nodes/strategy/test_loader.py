"""From a name or a file to a class; whatever is wrong is one line."""

from pathlib import Path

import pytest

from mesh.errors import ConfigError
from nodes.strategy.ema_cross import EmaCross
from nodes.strategy.loader import load_strategy

FILE = """
from nodes.strategy.sdk import Strategy
class Mine(Strategy):
    pass
class Other:
    pass
"""


def test_a_module_and_its_class() -> None:
    assert load_strategy("nodes.strategy.ema_cross:EmaCross") is EmaCross


def test_a_file_and_its_class(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    assert load_strategy(f"{path}:Mine").__name__ == "Mine"
    with pytest.raises(ConfigError, match="no Strategy"):
        load_strategy(f"{path}:Other")


@pytest.mark.parametrize(
    "where", ["", "EmaCross", "nodes.strategy.ema_cross:", "nodes.nothing:X", "./nothing.py:X"]
)
def test_what_is_not_there_is_one_line(where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_strategy(where)
    assert "\n" not in str(caught.value)


def test_a_file_that_raises_is_a_configuration_error(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_strategy(f"{path}:X")
