"""Run the coordinator: heartbeats in, view and mode out. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.coordinator.node import Coordinator
from nodes.coordinator.settings import CoordinatorSettings

if __name__ == "__main__":
    raise SystemExit(run("coordinator", Coordinator, CoordinatorSettings))
