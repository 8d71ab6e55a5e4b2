"""Run the paper_venue node: orders against the displayed market. Never here: decisions."""

from mesh.runtime.runner import run
from nodes.paper_venue.node import PaperVenueNode
from nodes.paper_venue.settings import PaperVenueSettings

if __name__ == "__main__":
    raise SystemExit(run("paper_venue", PaperVenueNode, PaperVenueSettings))
