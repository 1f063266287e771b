"""Running programs: the command under test, and the others."""

from __future__ import annotations

import contextlib
import json
import os
import pty
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


def on_terminal(*arguments: str | Path, env: Mapping[str, str] | None = None) -> bytes:
    """Run the command under test with its standard error on a terminal, and return what that shows."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **(env or {})}
    process = subprocess.Popen([PACKER, *arguments], stderr=theirs, stdout=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal is gone when the program is
        while piece := os.read(ours, 1 << 16):
            shown += piece
    os.close(ours)
    assert process.wait() == 0, shown
    return shown
