"""Run the risk node: order intents in, approvals and denials out. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.risk.node import RiskNode
from nodes.risk.settings import RiskSettings

if __name__ == "__main__":
    raise SystemExit(run("risk", RiskNode, RiskSettings))
