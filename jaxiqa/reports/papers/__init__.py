"""The tables of papers, with their published numbers: `PAPERS` maps a name, for `Evaluation.paper`, to a paper."""

from jaxiqa.reports.papers import guardians, robustness_as_architecture
from jaxiqa.reports.papers.paper import Paper, Run

PAPERS: dict[str, Paper] = {
    guardians.NAME: guardians.PAPER,
    robustness_as_architecture.NAME: robustness_as_architecture.PAPER,
}

__all__ = ["PAPERS", "Paper", "Run"]
