"""Writes .github/workflows/build-model.yml for others to call: `make docs`. A test fails if that was forgotten."""

from __future__ import annotations

from pathlib import Path

from containers.ci.github import COMMENTS, reusable
from containers.ci.text import workflow_yaml

FILE = Path(".github/workflows/build-model.yml")


def document() -> str:
    """The whole workflow."""
    return workflow_yaml(reusable(), COMMENTS, "Made from containers/ci/github.py by `make docs`; for others to call.")


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(document())
