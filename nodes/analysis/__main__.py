"""Run the analysis node: trades in, closed bars and indicators out. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.analysis.node import AnalysisNode
from nodes.analysis.settings import AnalysisSettings

if __name__ == "__main__":
    raise SystemExit(run("analysis", AnalysisNode, AnalysisSettings))
