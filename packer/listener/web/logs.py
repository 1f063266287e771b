"""What runs leave in files: their logs, and the pages about what was measured."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from formats.text import printable
from packer.listener.records import Run
from packer.listener.web.looks import variants_of
from packer.progress import human, summary

MAX_LOG = 256 << 10
"""Bytes of a log that are shown, from its end."""

MAX_REPORT = 16 << 20
"""Bytes of a report."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|.)")


def log_of(logs: Path, run: Run) -> tuple[str, int]:
    """The end of a run's log for people, and how many bytes are before it; empty if there is none."""
    try:
        with (logs / f"{run.id}.log").open("rb") as file:
            before = max(0, file.seek(0, os.SEEK_END) - MAX_LOG)
            file.seek(before)
            data = file.read(MAX_LOG)
    except OSError:
        return "", 0
    if before:
        rest = data.partition(b"\n")[2]
        before, data = before + len(data) - len(rest), rest
    return "\n".join(_lines(data.decode("utf-8", "replace"))), before


def _lines(text: str) -> Iterator[str]:
    for line in _ESCAPES.sub("", text).replace("\r\n", "\n").split("\n"):
        yield printable(_told(line.rpartition("\r")[2].replace("\t", "    ")))


def _told(line: str) -> str:
    """A line, in words if it is one of the builder's own."""
    if not line.startswith('{"event"'):
        return line
    try:
        return _words(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        return line


def _words(event: dict[str, Any]) -> str:
    match event["event"]:
        case "started":
            size = f" {human(event['bytes'])}" if "bytes" in event else ""
            return f"{event['stage']:<9} ...{size}"
        case "finished":
            return f"{event['stage']:<9} {summary(event['stage'], event)}"
        case "note":
            return f"{'':<9} {event['what']}"
        case "error":
            parts = (event.get(key) for key in ("subject", "what", "expected", "found", "hint"))
            return "error     " + "; ".join(str(part) for part in parts if part)
    raise KeyError(event["event"])


def report_of(logs: Path, run: Run, variant: str) -> bytes | None:
    """The page about what was measured of a variant; None if the run has none."""
    if not any(one.name == variant and one.report for one in variants_of(run)):
        return None
    folder = (logs / str(run.id) / "report").resolve()
    file = (folder / variant / "report.html").resolve()
    if not file.is_relative_to(folder):
        return None
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_REPORT + 1)
    except (OSError, ValueError):
        return None
    return data if len(data) <= MAX_REPORT else None
