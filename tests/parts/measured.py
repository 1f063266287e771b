"""A real model cut short, and what it takes to measure it quickly."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.parts.command import ROOT, packer
from tests.parts.small import cut_short

CAPITALS = ROOT / "recipes/suites/capitals"
PASSAGES = 64
SUITE = {"name": "short", "description": "short passages", "passages": PASSAGES, "window": 32}


class Place:
    """A real model cut short, a suite of short passages, and a cache that the tests share: what one has measured of the
    baseline, others need not.
    """

    def __init__(self, folder: Path) -> None:
        from recipes.evaluation.suite import find_suite

        self.folder, self.model = folder, cut_short(folder / "model")
        self.env = {"PACKER_CACHE": str(folder / "cache")}
        self.suite = folder / "short.yaml"
        data = find_suite("fidelity", Path()).data
        self.suite.write_text(json.dumps({**SUITE, "data": str(data)}))

    def packer(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return packer(*arguments, check=False, env=self.env, **options)

    def evaluate(self, candidate: Path, *arguments: str | Path) -> tuple[int, dict[str, Any], str]:
        """The exit code, the scorecard and what was said on standard error."""
        done = self.packer("evaluate", candidate, "--baseline", self.model, "--suite", self.suite, *arguments, "--json")
        last = json.loads(done.stdout.splitlines()[-1])
        return done.returncode, last, done.stderr

    def quantized(self, recipe: str) -> Path:
        folder = self.folder / recipe
        if not folder.exists():
            packer("quantize", self.model, folder, "--recipe", recipe, env=self.env)
        return folder

    def measured(self) -> dict[Path, int]:
        """Files of passages, and when they were written."""
        return {path: path.stat().st_mtime_ns for path in (self.folder / "cache/evaluated").glob("*/*.safetensors")}


def build(place: Place, to: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The whole chain."""
    flags = ("--max-size", "40MB", "--quantize", "fp8-dynamic", "--evaluate", place.suite)
    return place.packer("build", place.model, "--to", to, *flags, *arguments, "--json")
