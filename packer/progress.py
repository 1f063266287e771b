"""What a person or a program sees of a build: bars on a terminal, lines elsewhere, JSON where asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from formats.text import printable

Write = Callable[[str], object]


class JsonLines:
    """One JSON object a line: stages started and finished, bytes now and then, the release or the error last."""

    def __init__(self, write: Write) -> None:
        self._write, self._stage, self._moved, self._told = write, "", 0, 0.0

    def started(self, stage: str, size: int | None) -> None:
        """A stage begins."""
        self._stage, self._moved, self._told = stage, 0, time.monotonic()
        self._tell("started", stage=stage, **({} if size is None else {"bytes": size}))

    def expected(self, size: int) -> None:
        """A download begins."""
        self._tell("expected", stage=self._stage, bytes=size)

    def advanced(self, count: int) -> None:
        """Bytes have moved; told at most once a second."""
        self._moved += count
        if time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self._tell("progress", stage=self._stage, bytes=self._moved)

    def finished(self, stage: str, facts: Mapping[str, Any]) -> None:
        """A stage is done."""
        self._tell("finished", stage=stage, **facts)

    def _tell(self, event: str, **members: Any) -> None:
        self._write(json.dumps({"event": event, **members}, ensure_ascii=False))


class PlainLines:
    """A line when a stage starts and one when it is done."""

    def __init__(self, write: Write) -> None:
        self._write, self._began = write, 0.0

    def started(self, stage: str, size: int | None) -> None:
        """A stage begins."""
        self._began = time.monotonic()
        self._write(f"{stage:<9} ..." + (f" {human(size)}" if size else ""))

    def expected(self, size: int) -> None:
        """A download begins."""
        if size:
            self._write(f"{'':<9} {human(size)} to download")

    def advanced(self, count: int) -> None:
        """Nothing: a log is no place for bars."""

    def finished(self, stage: str, facts: Mapping[str, Any]) -> None:
        """A stage is done."""
        self._write(_done(stage, facts, self._began))


class Bars:
    """A bar for each stage, with bytes, rate and time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
        label = TextColumn("{task.description:<9}")
        self._progress = Progress(label, *columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=None)
        self._began = 0.0

    def started(self, stage: str, size: int | None) -> None:
        """A stage begins."""
        self._began = time.monotonic()
        self._progress.reset(self._task, description=stage, total=size)
        self._progress.start()

    def expected(self, size: int) -> None:
        """The bar knows its end."""
        self._progress.update(self._task, total=size)

    def advanced(self, count: int) -> None:
        """The bar moves."""
        self._progress.advance(self._task, count)

    def finished(self, stage: str, facts: Mapping[str, Any]) -> None:
        """The bar gives way to a line."""
        self._progress.stop()
        self._progress.console.print(_done(stage, facts, self._began), highlight=False, markup=False)

    def close(self) -> None:
        """Take the bar away, whatever happened."""
        self._progress.stop()


def human(size: int | float) -> str:
    """A number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError


def _done(stage: str, facts: Mapping[str, Any], began: float) -> str:
    return f"{stage:<9} {summary(stage, facts)} ({time.monotonic() - began:.1f} s)"


def summary(stage: str, facts: Mapping[str, Any]) -> str:
    """One line about the result of a stage."""
    match stage:
        case "fetch":
            revision = facts["origin"]["revision"]
            return f"{facts['files']} files, {human(facts['bytes'])}" + (
                f", commit {revision[:12]}" if revision else ""
            )
        case "validate":
            counts = f"{facts['tensors']} tensors, {facts['parameters']:,} parameters ({', '.join(facts['dtypes'])})"
            return f"{facts['format']}, {facts.get('architecture', 'unknown architecture')}, {counts}{_warned(facts)}"
        case "shard" | "merge":
            largest = max(file["bytes"] for file in facts["weights"])
            return f"{len(facts['weights'])} weight files, the largest of {human(largest)}{_warned(facts)}"
        case "package":
            return f"{len(facts['blobs'])} blobs, {human(facts['bytes'])}, for {', '.join(facts['platforms'])}"
        case "pull" | "write":
            return f"{len(facts['files'])} files, {human(sum(file['bytes'] for file in facts['files']))}"
        case _:
            return published(facts)


def _warned(facts: Mapping[str, Any]) -> str:
    """How many warnings there are, and the first of them."""
    warnings = facts["warnings"]
    if not warnings:
        return ""
    first = f"{warnings[0]['file']} {warnings[0]['tensor']}".rstrip()
    first = printable(first[:200])
    return f"; {len(warnings)} warning{'s' if len(warnings) > 1 else ''}, such as {warnings[0]['rule']} in {first}"


def published(facts: Mapping[str, Any]) -> str:
    """What a publish moved."""
    if not facts["blobs_sent"]:
        tags = "the tags were set" if facts["changed"] else "the tags point at them"
        return f"nothing to upload: {human(facts['bytes_present'])} are there, and {tags}"
    return f"sent {facts['blobs_sent']} blobs, {human(facts['bytes_sent'])}; {human(facts['bytes_present'])} were there"
