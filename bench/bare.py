"""An environment on a machine without network: what its Python has, wheels that came along, and this checkout."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.measure import ROOT


def environment(folder: Path, wheels: Path) -> Path:
    """A Python in `folder` with all packages that ours has, and those of `wheels` that ours lacks."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    missing = [path for path in sorted(wheels.glob("*.whl")) if not _is_here(path)]
    if missing:
        install: list[str | Path] = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--target",
            site,
        ]
        subprocess.run([*install, *missing], check=True, stdout=sys.stderr)
    ours = [path for path in sys.path if re.search(r"(site|dist)-packages$", path)]
    lines = (f"import site; site.addsitedir({str(path)!r})\n" for path in (ROOT, *ours))
    (site / "all.pth").write_text("".join(lines))
    return folder / "bin/python"


def _is_here(wheel: Path) -> bool:
    try:
        version(wheel.name.partition("-")[0])
    except PackageNotFoundError:
        return False
    return True
