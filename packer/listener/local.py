"""Builds as processes of this machine, each with its own limits and its own log."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread
from typing import IO, Any

from formats.text import printable
from packer.failures import REFUSALS
from packer.listener.builds import Build
from packer.listener.records import Outcome, Run, RunState, in_a_line
from packer.listener.runner import Tell
from packer.results import values

_QUIET = frozenset(("progress", "expected"))
"""Events of a build that its log does not keep: a line each second."""

_CLEANING = 10
"""Seconds that a process gets after it was asked to end."""

NEVER = "never built"
"""What is said first of a build that has no lock."""

_LONGEST = 1 << 20
"""Bytes of a line that are read at once."""


@dataclass(frozen=True)
class LocalRunner:
    """Runs `packer rebuild`. `logs` is a folder; `environment` is what the processes get; times are in seconds.

    A run's log is `RUN.log` there, its reports are in the folder `RUN/report`. `memory` is in bytes, for each process.
    """

    logs: Path
    environment: Mapping[str, str]
    memory: int | None
    timeout: float
    grace: float

    def run(self, build: Build, run: Run, tell: Tell, stop: Event) -> Outcome:
        """Compare, and build if something has changed."""
        self.logs.mkdir(parents=True, exist_ok=True)
        with (self.logs / f"{run.id}.log").open("ab") as log, self._started(build, run, log) as process:
            watch = _Watch(process, stop, self.timeout, self.grace)
            watch.start()
            story = Story()
            assert process.stdout
            for line in _lines(process.stdout, log):
                story.read(line, tell)
            process.wait()
            watch.join()
        return story.outcome(process.returncode, watch.why)

    def _started(self, build: Build, run: Run, log: IO[bytes]) -> subprocess.Popen[bytes]:
        turn = self.logs / f"{sha256(os.fsencode(build.file.resolve())).hexdigest()[:16]}.turn"
        report = ("--report", str(self.logs / str(run.id) / "report"))
        return subprocess.Popen(
            rebuilding(build.file, turn, *report, memory=self.memory),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=dict(self.environment),
            start_new_session=True,
        )


def rebuilding(file: Path, turn: Path, *flags: str, memory: int | None = None) -> list[str]:
    """The command that rebuilds a file in a process of ours: see `packer.listener.child`."""
    limits = (str(os.getpid()), str(memory or 0), str(turn))
    return [sys.executable, "-P", "-m", "packer.listener.child", *limits, "rebuild", str(file), "--json", *flags]


def forget_logs(folder: Path, before: float, kept: Collection[int]) -> None:
    """Remove the logs and reports of runs that were last written before a time, in seconds since 1970, but of some."""
    for path in folder.glob("[0-9]*"):
        number = path.name.removesuffix(".log")
        with suppress(OSError):
            if number.isdecimal() and int(number) not in kept and path.stat().st_mtime < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class _Watch(Thread):
    """Ends a process, and all that it started, when its time is over or the listener stops. `why` says that it did."""

    def __init__(self, process: subprocess.Popen[bytes], stop: Event, timeout: float, grace: float) -> None:
        super().__init__(daemon=True)
        self.why = ""
        self._process, self._halt = process, stop
        self._timeout, self._grace = timeout, grace

    def run(self) -> None:
        end = time.monotonic() + self._timeout
        while self._process.poll() is None and time.monotonic() < end:
            if self._halt.wait(0.2):
                end = min(end, time.monotonic() + self._grace)
                self._until(end)
        if self._process.poll() is None:
            self.why = "stopped" if self._halt.is_set() else "timeout"
            self._end(signal.SIGTERM)
            self._until(time.monotonic() + _CLEANING)
            self._end(signal.SIGKILL)

    def _until(self, end: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0, end - time.monotonic()))

    def _end(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _lines(stream: IO[bytes], log: IO[bytes]) -> Iterator[Mapping[str, Any]]:
    """The events that a build tells; all that is worth it goes to its log."""
    while line := stream.readline(_LONGEST):
        event = parsed(line)
        if event.get("event") not in _QUIET:
            log.write(line)
            log.flush()
        yield event


def parsed(line: bytes) -> Mapping[str, Any]:
    """An event that a build tells; empty for a line that is none."""
    try:
        document = json.loads(line)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


@dataclass
class Story:
    """What a build tells, as it goes on, of one variant after another."""

    changed: list[str] = field(default_factory=list)
    error: str = ""
    _variant: str = ""
    _stages: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    _size: int | None = None

    def read(self, event: Mapping[str, Any], tell: Tell) -> None:
        """Take in an event, and tell what it means."""
        match event.get("event"):
            case "check":
                self._variant = event.get("variant", "")
                if event["changed"] and not any(change.get("before") for change in event["changed"]):
                    self.changed.append(printable(f"{self._variant}: {NEVER}" if self._variant else NEVER))
                self.changed += [change_in_words(self._variant, change) for change in event["changed"]]
                if event["changed"]:
                    tell(changed=self.changed)
            case "started":
                self._size = event.get("bytes")
                tell(self._step(event))
            case "expected":
                self._size = event.get("bytes")
            case "progress":
                tell({**self._step(event), "bytes": event.get("bytes"), "of": self._size})
            case "finished":
                self._stages.setdefault(self._variant, {}).setdefault(event["stage"], dict(event))
            case "error":
                self.error = printable(in_a_line(event))[:1000]

    def _step(self, event: Mapping[str, Any]) -> dict[str, Any]:
        return {"stage": event.get("stage", ""), **({"text": self._variant} if self._variant else {})}

    def outcome(self, code: int, why: str = "") -> Outcome:
        """What it comes to, with the exit code; `why` it was ended, if it was: `stopped` or `timeout`."""
        result = {"variants": {name: _variant(stages) for name, stages in self._stages.items()}}
        if why == "stopped":
            return Outcome(RunState.INTERRUPTED, None, self.changed, result, "the listener was stopped")
        if why:
            return Outcome(RunState.FAILED, 1, self.changed, result, "it took longer than it may (local: timeout)")
        if code < 0:
            error = f"it was ended by signal {-code}, as happens when memory runs out"
            return Outcome(RunState.FAILED, 6, self.changed, result, error)
        error = "" if code == 0 else self.error or _SAID.get(code, f"it ended with code {code}: see its log")
        return Outcome(self._state(code), code, self.changed, result, error)

    def _state(self, code: int) -> RunState:
        if code:
            return RunState.REFUSED if code in REFUSALS else RunState.FAILED
        return RunState.RELEASED if any("publish" in stages for stages in self._stages.values()) else RunState.UNCHANGED


_SAID = {3: "the model is not acceptable", 4: "it lost too much"}


def change_in_words(variant: str, change: Mapping[str, Any]) -> str:
    """A change of an input in words."""
    was, now = (change.get(key) or {} for key in ("before", "after"))
    text = f"{change['kind']}: {_short(was)} -> {_short(now)}"
    return printable(f"{variant}: {text}" if variant else text)[:300]


def _short(entry: Mapping[str, Any]) -> str:
    return f"{entry['name']} {str(entry['value'])[:19]}".strip() if entry else "none"


def _variant(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What came of a variant, of what its stages told."""
    said, release = values(stages), stages.get("publish", {})
    return {
        "image": release.get("image"),
        "modelpack": release.get("modelpack"),
        "tags": list(release.get("tags", ())),
        "verdict": said["VERDICT"] or None,
        "retention": float(said["RETENTION"]) if said["RETENTION"] else None,
        "bytes": release.get("bytes_sent"),
        "report": "evaluate" in stages,
    }
