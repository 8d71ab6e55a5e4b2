"""Outcome: refusal only by proof, doubt for everything else."""

import pytest

from mesh.errors import MeshError, OutcomeUnknown, Refused, StorageError, Unavailable
from nodes.domain.orders import VenueReport
from nodes.execution.outcome import of_cancel, of_place


@pytest.mark.parametrize(
    ("result", "placed", "canceled"),
    [
        (Unavailable("nobody"), "ref", "cno"),
        (Refused("no"), "ref", "cno"),
        (OutcomeUnknown("timeout"), "dbt", "dbt"),
        (StorageError("disk"), "dbt", "dbt"),
        (VenueReport("ack", "other", "P1"), "dbt", "dbt"),
        (VenueReport("exp", "c", "P1"), "dbt", "dbt"),
        (VenueReport("ack", "c", "P1"), "ack", "dbt"),
        (VenueReport("ref", "c", "", "LOT"), "ref", "dbt"),
        (VenueReport("cok", "c", "P1"), "dbt", "cok"),
        (VenueReport("cno", "c", "P1"), "dbt", "cno"),
        (VenueReport("cno", "c", "", "UNKNOWN_ORDER"), "dbt", "dbt"),
    ],
)
def test_only_proof_is_a_refusal(
    result: VenueReport | MeshError, placed: str, canceled: str
) -> None:
    assert of_place("c", result).event == placed
    assert of_cancel("c", result).event == canceled
    assert of_place("c", result).client_order_id == "c"
