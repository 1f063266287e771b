"""docs/benchmarks.md: a table, and sections that are written each by itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from bench.measure import ROOT, Row

PATH = ROOT / "docs/benchmarks.md"
TABLE = "| what | packer | beside | ratio | goal |\n|---|---|---|---|---|\n"


def table(rows: Iterable[Row]) -> str:
    """The rows as a table."""
    lines = (f"| {row.what} | {row.ours} | {row.theirs} | {row.ratio} | {row.goal} |\n" for row in rows)
    return TABLE + "".join(lines)


def write_head(head: str, path: Path = PATH) -> None:
    """Replace what is there before the first section."""
    path.write_text("\n".join([head, *_sections(path.read_text(encoding="utf-8"))]), encoding="utf-8")


def write_section(title: str, body: str, path: Path = PATH) -> None:
    """Replace the section with this title, or add it at the end."""
    text = path.read_text(encoding="utf-8")
    head = re.split(r"(?m)^## ", text, maxsplit=1)[0].rstrip("\n") + "\n"
    sections = {section.partition("\n")[0]: section for section in _sections(text)}
    sections[f"## {title}"] = f"## {title}\n\n{body}"
    path.write_text("\n".join([head, *sections.values()]), encoding="utf-8")


def _sections(text: str) -> list[str]:
    return [f"## {part.rstrip()}\n" for part in re.split(r"(?m)^## ", text)[1:]]
