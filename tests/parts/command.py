"""Running programs: the command under test, and the others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKER = Path(sys.executable).with_name("packer")
CONTAINERS_CONF = ROOT / "tests" / "containers.conf"


def run(
    *command: str | Path, check: bool = True, env: Mapping[str, str] | None = None, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; a failure shows what it said."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
        **options,
    )
    if check and done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def packer(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command under test."""
    return run(PACKER, *arguments, **options)


def events(*arguments: str | Path, **options: Any) -> list[dict[str, Any]]:
    """Run the command under test with --json and return its lines."""
    return [json.loads(line) for line in packer(*arguments, "--json", **options).stdout.splitlines()]


def release(*arguments: str | Path, **options: Any) -> dict[str, Any]:
    """Run `packer build` and return the release."""
    last = events("build", *arguments, **options)[-1]
    assert last["event"] == "release"
    return last
