"""An evaluation as a page for a person: one HTML text that needs nothing else."""

from recipes.evaluation.report.page import render

__all__ = ["render"]
