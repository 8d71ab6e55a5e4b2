"""Run the api node: REST and the dashboard. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.api.node import ApiNode
from nodes.api.settings import ApiSettings

if __name__ == "__main__":
    raise SystemExit(run("api", ApiNode, ApiSettings))
