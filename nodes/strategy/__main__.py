"""Run a strategy node: bars and quotes in, order intents out. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.strategy.node import StrategyNode
from nodes.strategy.settings import StrategySettings

if __name__ == "__main__":
    raise SystemExit(run("strategy", StrategyNode, StrategySettings))
