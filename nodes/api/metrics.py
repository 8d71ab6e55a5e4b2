"""The mesh in Prometheus' text format, made from the coordinator's status.

Never here: counting; nodes count and tell it in their heartbeats.
"""

from collections.abc import Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

CONTENT_TYPE: Final = "text/plain; version=0.0.4"  # litestar adds the charset
MODES: Final = ("NORMAL", "SAFE", "EMERGENCY")

# Name, help, key in the status of a node, factor to the base unit.
FIGURES: Final = (
    ("genesis_node_heartbeat_age_seconds", "Since the last heartbeat.", "heartbeat_age_ms", 1e-3),
    ("genesis_node_events_in_per_second", "Events received.", "events_in_s", 1.0),
    ("genesis_node_events_out_per_second", "Events published.", "events_out_s", 1.0),
    ("genesis_node_resident_bytes", "Resident memory.", "rss_mb", 1_048_576.0),
    ("genesis_node_restarts", "Runs beyond the first.", "restarts", 1.0),
    ("genesis_node_epoch", "Number of the run.", "epoch", 1.0),
)


class _Status:
    """A collector over one status document."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield every metric family."""
        nodes = [node for node in self._status.get("nodes", ()) if isinstance(node, dict)]
        mode = GaugeMetricFamily("genesis_mode", "1 for the mode in force.", labels=["mode"])
        for name in MODES:
            mode.add_metric([name], float(str(self._status.get("mode")).upper() == name))
        yield mode
        up = GaugeMetricFamily("genesis_node_up", "1 if the node is UP.", labels=["node"])
        for node in nodes:
            up.add_metric([str(node.get("node"))], float(node.get("state") == "UP"))
        yield up
        for name, text, key, factor in FIGURES:
            yield _family(name, text, ((node, node.get(key), factor) for node in nodes))
        yield self._latency(nodes)

    @staticmethod
    def _latency(nodes: list[dict[str, Any]]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(
            "genesis_node_latency_seconds",
            "Event latency, sent to received.",
            labels=["node", "quantile"],
        )
        for node in nodes:
            latency = node.get("latency_us") or {}
            for key, quantile in (("p50", "0.5"), ("p99", "0.99")):
                if isinstance(value := latency.get(key), int | float):
                    family.add_metric([str(node.get("node")), quantile], value / 1e6)
        return family


def exposition(status: dict[str, Any]) -> bytes:
    """Return the metrics of *status*, the document of coordinator.status."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Status(status))
    return generate_latest(registry)


def _family(
    name: str, text: str, rows: Iterator[tuple[dict[str, Any], Any, float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=["node"])
    for node, value, factor in rows:
        if isinstance(value, int | float):
            family.add_metric([str(node.get("node"))], value * factor)
    return family
