"""What a person or a program sees of a build: bars on a terminal, lines elsewhere, JSON where asked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from formats.rules.pickle import CONVERTED
from formats.text import printable

Write = Callable[[str], object]


class JsonLines:
    """One JSON object a line: stages started and finished, bytes now and then, the release or the error last."""

    def __init__(self, write: Write) -> None:
        self._write, self._stage, self._moved, self._told = write, "", 0, 0.0
        self._lock = Lock()

    def started(self, stage: str, size: int | None) -> None:
        """A stage begins."""
        self._stage, self._moved, self._told = stage, 0, time.monotonic()
        self._tell("started", stage=stage, **({} if size is None else {"bytes": size}))

    def expected(self, size: int) -> None:
        """A download begins."""
        self._tell("expected", stage=self._stage, bytes=size)

    def advanced(self, count: int) -> None:
        """Bytes have moved; told at most once a second, whichever thread moved them."""
        with self._lock:
            self._moved += count
            if time.monotonic() - self._told >= 1:
                self._told = time.monotonic()
                self._tell("progress", stage=self._stage, bytes=self._moved)

    def noted(self, text: str) -> None:
        """Something to know."""
        self._tell("note", what=text)

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

    def noted(self, text: str) -> None:
        """Something to know."""
        self._write(f"{'':<9} {printable(text)}")

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

    def noted(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(f"{'':<9} {printable(text)}", highlight=False, markup=False)

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


def plural(count: int, what: str) -> str:
    """A count and what is counted: `1 file`, `2,000 files`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _done(stage: str, facts: Mapping[str, Any], began: float) -> str:
    return f"{stage:<9} {summary(stage, facts)} ({time.monotonic() - began:.1f} s)"


def summary(stage: str, facts: Mapping[str, Any]) -> str:
    """One line about the result of a stage."""
    return _SUMMARIES.get(stage, published)(facts)


def _fetched(facts: Mapping[str, Any]) -> str:
    revision = facts["origin"]["revision"]
    kind, _, digits = revision.rpartition(":")
    pinned = f", {'digest' if kind else 'commit'} {digits[:12]}" if revision else ""
    return f"{plural(facts['files'], 'file')}, {human(facts['bytes'])}{pinned}"


def _validated(facts: Mapping[str, Any]) -> str:
    counts = f"{plural(facts['tensors'], 'tensor')}, {plural(facts['parameters'], 'parameter')}"
    kind = f"{facts['format']}, {facts.get('architecture', 'unknown architecture')}"
    return f"{kind}, {counts} ({', '.join(facts['dtypes'])}){_converted(facts)}{_warned(facts)}"


def _sharded(facts: Mapping[str, Any]) -> str:
    largest = max(file["bytes"] for file in facts["weights"])
    return f"{plural(len(facts['weights']), 'weight file')}, the largest of {human(largest)}{_warned(facts)}"


def _packaged(facts: Mapping[str, Any]) -> str:
    return f"{plural(len(facts['blobs']), 'blob')}, {human(facts['bytes'])}, for {', '.join(facts['platforms'])}"


def _written(facts: Mapping[str, Any]) -> str:
    return f"{plural(len(facts['files']), 'file')}, {human(sum(file['bytes'] for file in facts['files']))}"


def _quantized(facts: Mapping[str, Any]) -> str:
    """What became of the modules, of the size, and what it took."""
    modules = facts["modules"]
    left = sum(1 for module in modules if not module["scheme"])
    took = f"took {facts['seconds']:.0f} s and {human(facts['host'])} of memory" if facts["is_new"] else "done before"
    device = f", {human(facts['device'])} on the GPU" if facts["device"] and facts["is_new"] else ""
    counts = f"{plural(len(modules) - left, 'module')} quantized, {left:,} left"
    return f"{facts['recipe']}: {counts}; {human(facts['before'])} -> {human(facts['after'])}; {took}{device}"


def _evaluated(facts: Mapping[str, Any]) -> str:
    """The verdict in the words of the report, and on what it rests."""
    from recipes.evaluation.report.verdict import headline
    from recipes.evaluation.scorecard import Scorecard

    samples, said = facts["samples"], headline(Scorecard.from_json(facts, "the evaluation"))
    return f"{said}; {samples['used']:,} {samples['unit']}".replace("\u00a0", " ")


def _converted(facts: Mapping[str, Any]) -> str:
    """How many pickles became safetensors, and the first of them."""
    made = [warning for warning in facts["warnings"] if warning["rule"] == CONVERTED.id]
    if not made:
        return ""
    first = printable(f"{made[0]['found']} -> {made[0]['file']}"[:200])
    return f"; converted {first}" + (f" and {len(made) - 1} more" if len(made) > 1 else "")


def _warned(facts: Mapping[str, Any]) -> str:
    """How many warnings there are, and the first of them."""
    warnings = [warning for warning in facts["warnings"] if warning["rule"] != CONVERTED.id]
    if not warnings:
        return ""
    first = f"{warnings[0]['file']} {warnings[0]['tensor']}".rstrip()
    first = printable(first[:200])
    return f"; {plural(len(warnings), 'warning')}, such as {warnings[0]['rule']} in {first}"


def published(facts: Mapping[str, Any]) -> str:
    """What a publish moved."""
    if not facts["blobs_sent"] and not facts["blobs_mounted"]:
        tags = "the tags were set" if facts["changed"] else "the tags point at them"
        return f"nothing to upload: {human(facts['bytes_present'])} are there, and {tags}"
    return moved(facts)


def moved(facts: Mapping[str, Any]) -> str:
    """How the blobs came to be there."""
    mounted = f"mounted {human(facts['bytes_mounted'])} from other repositories; " if facts["blobs_mounted"] else ""
    sent = f"sent {plural(facts['blobs_sent'], 'blob')}, {human(facts['bytes_sent'])}"
    return f"{sent}; {mounted}{human(facts['bytes_present'])} were there"


_SUMMARIES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "fetch": _fetched,
    "validate": _validated,
    "shard": _sharded,
    "merge": _sharded,
    "quantize": _quantized,
    "evaluate": _evaluated,
    "package": _packaged,
    "pull": _written,
    "write": _written,
}
"""What is said of each stage's result; of all others, what they moved."""
