"""Metrics: the status of the mesh as Prometheus reads it.

Never here: HTTP.
"""

from prometheus_client.parser import text_string_to_metric_families

from nodes.api.metrics import exposition

STATUS = {
    "mode": "SAFE",
    "nodes": [
        {
            "node": 'odd"name',
            "state": "UP",
            "heartbeat_age_ms": 250,
            "latency_us": {"p50": 40, "p99": None},
            "rss_mb": 2,
        },
        {"node": "risk", "state": "DOWN"},
    ],
}


def samples() -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(exposition(STATUS).decode())
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def test_figures_come_in_base_units() -> None:
    found = samples()
    assert found["genesis_node_heartbeat_age_seconds", 'odd"name'] == 0.25
    assert found["genesis_node_resident_bytes", 'odd"name'] == 2 * 1_048_576
    assert found["genesis_node_latency_seconds", 'odd"name', "0.5"] == 40e-6


def test_mode_and_states_are_ones_and_zeros() -> None:
    found = samples()
    assert [found["genesis_mode", m] for m in ("NORMAL", "SAFE", "EMERGENCY")] == [0, 1, 0]
    assert found["genesis_node_up", 'odd"name'] == 1
    assert found["genesis_node_up", "risk"] == 0


def test_unknown_figures_are_absent_not_zero() -> None:
    assert ("genesis_node_latency_seconds", 'odd"name', "0.99") not in samples()
    assert ("genesis_node_resident_bytes", "risk") not in samples()


def test_empty_mesh_still_has_its_mode() -> None:
    assert b'genesis_mode{mode="NORMAL"} 0.0' in exposition({})
