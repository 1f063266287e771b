"""The script for machines with a GPU runs on the processor with small models, and its figures are written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.gpu import NONE, TITLE, Result, write
from bench.measure import ROOT
from tests.parts.command import run


def test_the_script_measures_and_judges(tmp_path: Path) -> None:
    done = run(sys.executable, ROOT / "tests/gpu/run.py", "--parameters", "tiny", "--place", tmp_path, timeout=1800)
    machine, *lines = map(json.loads, done.stdout.splitlines())
    results = list(map(Result.from_json, lines))
    assert machine["torch"] in ("cpu", "cuda")
    assert [(each.recipe, each.by) for each in results] == [
        ("fp8-dynamic", "packer"),
        ("fp8-dynamic", "llmcompressor"),
        ("int8-w8a8", "packer"),
        ("int8-w8a8", "llmcompressor"),
    ]
    _written(tmp_path, done.stdout)


def _written(folder: Path, said: str) -> None:
    told, document = folder / "told", folder / "benchmarks.md"
    told.write_text(said)
    document.write_text(f"# Benchmarks\n\nA table.\n\n## {TITLE}\n\n{NONE}\n## Other\n\nMore.\n")
    write(told, document)
    text = document.read_text()
    assert text.startswith("# Benchmarks\n\nA table.\n\n")
    assert text.endswith("## Other\n\nMore.\n")
    assert NONE.split("\n")[0] not in text
    assert text.count("| fp8-dynamic |") == 2
