"""Run the recorder node: durable events into a database. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.recorder.node import RecorderNode
from nodes.recorder.settings import RecorderSettings

if __name__ == "__main__":
    raise SystemExit(run("recorder", RecorderNode, RecorderSettings))
