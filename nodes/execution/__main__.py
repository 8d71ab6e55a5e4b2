"""Run the execution node: approved orders out, evidence in. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.execution.node import ExecutionNode
from nodes.execution.settings import ExecutionSettings

if __name__ == "__main__":
    raise SystemExit(run("execution", ExecutionNode, ExecutionSettings))
