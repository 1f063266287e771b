"""What runs leave in files: their logs, and the pages about what was measured."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from formats.text import printable
from packer.listener.local import change_in_words
from packer.listener.records import Run
from packer.listener.web.looks import variants_of
from packer.progress import human, summary
from registry.errors import PackerError

MAX_LOG = 256 << 10
"""Bytes of a log that are shown, from its end."""

MAX_REPORT = 16 << 20
"""Bytes of a report."""

_ERROR = '{"event": "error"'

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
    return _shown(_ESCAPES.sub("", data.decode("utf-8", "replace"))), before


def _shown(text: str) -> str:
    """A log in lines for people. A builder tells its errors on two ways, to people and to programs: once is enough."""
    lines = [line.rpartition("\r")[2].replace("\t", "    ") for line in text.replace("\r\n", "\n").split("\n")]
    told = ["\n".join(printable(one) for one in _told(line).split("\n")) for line in lines]
    shown = "\n".join(told)
    for error in {one for line, one in zip(lines, told, strict=True) if line.startswith(_ERROR)}:
        shown = shown.replace(f"{error}\n", "", f"{shown}\n".count(f"{error}\n") - 1)
    return shown


def _told(line: str) -> str:
    """A line, in words if it is one of the builder's own; these may have several lines."""
    if not line.startswith('{"event"'):
        return line
    try:
        return _words(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OverflowError):
        return line


def _words(event: dict[str, Any]) -> str:
    return _WORDS[event["event"]](event)


def _begun(event: dict[str, Any]) -> str:
    return f"{event['stage']:<9} ..." + (f" {human(event['bytes'])}" if "bytes" in event else "")


def _checked(event: dict[str, Any]) -> str:
    changes = (change_in_words("", change) for change in event["changed"])
    return "\n".join(f"{'changed':<9} {change}" for change in changes) or f"{'check':<9} up to date"


def _released(event: dict[str, Any]) -> str:
    return "\n".join(f"{kind:<9} {event[kind]}" for kind in ("image", "modelpack") if event[kind])


def _failed(event: dict[str, Any]) -> str:
    said = {key: event[key] for key in ("subject", "expected", "found", "hint") if event.get(key)}
    variant = f"{event['variant']}: " if event.get("variant") else ""
    return f"error: {variant}{PackerError(event['what'], **said)}"


_WORDS: dict[str, Callable[[dict[str, Any]], str]] = {
    "variant": lambda event: f"{'variant':<9} {event['variant']}",
    "check": _checked,
    "started": _begun,
    "finished": lambda event: f"{event['stage']:<9} {summary(event['stage'], event)}",
    "note": lambda event: f"{'':<9} {event['what']}",
    "release": _released,
    "error": _failed,
    "interrupted": lambda _event: "interrupted",
}


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
