"""Faults: a schedule written down is the schedule that comes back."""

import pytest

from mesh.errors import Invalid
from mesh.sim.faults import Fault, Saved, load, save

RUN = Saved(7, (Fault(1.5, "cut", "p0", "s1", 2.0), Fault(2.0, "kill", "p1")), "hole", {"hwm": 3})


def test_a_saved_run_comes_back() -> None:
    assert load(save(RUN)) == RUN


def test_faults_are_written_for_people() -> None:
    assert b'"seed": 7' in save(RUN)


@pytest.mark.parametrize("text", [b"", b"{}", b'{"seed": 1}', b'{"seed": 1, "schedule": [[1]]}'])
def test_what_is_no_saved_run_is_invalid(text: bytes) -> None:
    with pytest.raises(Invalid, match="no saved schedule"):
        load(text)


def test_words_nobody_knows_are_invalid() -> None:
    with pytest.raises(Invalid, match="extra"):
        load(b'{"seed": 1, "schedule": [], "extra": 1}')
