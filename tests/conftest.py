"""What all tests share. Never here: a helper that one file alone uses."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

pytest_plugins = ["tests.fixtures_postgres"]

# Same examples on every run and every machine; `--hypothesis-profile=explore` looks further.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.register_profile("explore", max_examples=2_000, deadline=None)
settings.load_profile("repeatable")

ROOT = Path(__file__).parents[1]
WAITING = ("tests/system/", "tests/chaos/", "tests/integration/")  # longest first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that wait for processes: those that compute fill the gaps."""

    def turn(item: pytest.Item) -> int:
        found = (number for number, place in enumerate(WAITING) if item.nodeid.startswith(place))
        return next(found, len(WAITING))

    items.sort(key=turn)


@pytest.fixture(scope="session", autouse=True)
def runtime_dir() -> Iterator[Path]:
    """Keep the sockets of homes too deep for one in a place that ends with the tests."""
    with tempfile.TemporaryDirectory(prefix="g") as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", place)
        yield Path(place)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of recorded market data; skip where the checkout stands alone."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("no recordings: ../shared/data is missing beside the checkout")
    return path
