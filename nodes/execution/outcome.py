"""The outcome of a call to a venue: acknowledgement, refusal, or doubt.

A refusal must be proved: by the venue's own word, or by an error that says nothing was
executed. All else is doubt, never a rejection.

Never here: what to do about doubt.
"""

from mesh.errors import MeshError
from nodes.domain.orders import VenueReport
from nodes.execution.blotter import Evidence, evidence_of


def of_place(coid: str, result: VenueReport | MeshError) -> Evidence:
    """Return what the result of venue.place proves about the order."""
    if isinstance(result, VenueReport):
        known = result.event in ("ack", "ref") and result.client_order_id == coid
        return evidence_of(result) if known else Evidence("dbt", coid, reason="ODD_ANSWER")
    event = "ref" if result.executed == "no" else "dbt"
    return Evidence(event, coid, reason=f"{result.code}: {result}")


def of_cancel(coid: str, result: VenueReport | MeshError) -> Evidence:
    """Return what the result of venue.cancel proves; a cancel that never left changes nothing."""
    if isinstance(result, VenueReport):
        known = result.event in ("cok", "cno") and result.client_order_id == coid
        if not known or (result.event == "cno" and result.reason == "UNKNOWN_ORDER"):
            return Evidence("dbt", coid, reason=result.reason or "ODD_ANSWER")
        return evidence_of(result)
    event = "cno" if result.executed == "no" else "dbt"
    return Evidence(event, coid, reason=f"{result.code}: {result}")
