"""Run the market data node: raw frames of a source in, typed values out.

Never here: decisions.
"""

from mesh.runtime.runner import run
from nodes.market_data.node import MarketDataNode
from nodes.market_data.settings import MarketDataSettings

if __name__ == "__main__":
    raise SystemExit(run("market_data", MarketDataNode, MarketDataSettings))
