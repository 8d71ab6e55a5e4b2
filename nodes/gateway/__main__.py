"""Run the gateway node: WebSocket clients in and out. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.gateway.node import GatewayNode
from nodes.gateway.settings import GatewaySettings

if __name__ == "__main__":
    raise SystemExit(run("gateway", GatewayNode, GatewaySettings))
