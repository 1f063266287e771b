"""What the listener remembers: events, the builds that are wanted because of them, and the runs that came of these.

    event  ->  lead (event, build)  ->  want (build, due)  ->  run (build)

Times are seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from registry.events.change import Change, Delivery


def in_a_line(error: Mapping[str, Any]) -> str:
    """All that an error says (`PackerError.to_json`), without line ends: what is wrong first, what to do last."""
    said = [": ".join(str(error[key]) for key in ("subject", "what") if error.get(key))]
    labels = {"expected": "expected", "found": "found", "hint": "next"}
    said += [f"{label}: {error[key]}" for key, label in labels.items() if error.get(key)]
    return " ".join("; ".join(said).split())


class EventState(StrEnum):
    """What became of an event: not yet looked at, about nothing that is built here, caused by us, or led to builds."""

    ACCEPTED = "accepted"
    IGNORED = "ignored"
    OWN = "own"
    MATCHED = "matched"


class RunState(StrEnum):
    """What became of a run. Only `RUNNING` has no end yet."""

    RUNNING = "running"
    UNCHANGED = "unchanged"
    RELEASED = "released"
    REFUSED = "refused"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Event:
    """A delivery that was accepted on a path, and what became of it.

    `delivery` is what its sender calls it; `why` says in words why it is in its state; `runs` are those that it led to.
    """

    id: int
    at: float
    path: str
    kind: str
    delivery: str | None
    changes: Sequence[Change]
    state: EventState
    why: str
    runs: Sequence[int] = ()


@dataclass(frozen=True)
class Arrival:
    """A delivery that has just come on a path, at a time."""

    path: str
    kind: str
    delivery: Delivery
    at: float


@dataclass(frozen=True)
class Routed:
    """What becomes of an event, and why; `wanted` are builds, with the times at which they shall be due."""

    event: int
    state: EventState
    why: str
    wanted: Mapping[str, float]


@dataclass(frozen=True)
class Want:
    """A build that is wanted since a time, and due at another. `after` is the run that it repeats, if there is one."""

    build: str
    since: float
    due: float
    attempt: int
    after: int | None


@dataclass(frozen=True)
class Run:
    """One time that a build was looked at, and built if something had changed.

    `changed` says in words what had; `step` is the progress that was told last; `result` is what came of it, a JSON
    object; `error` is one line, empty if there was none; `after` is the run that it repeats.
    """

    id: int
    build: str
    owner: str
    state: RunState
    attempt: int
    after: int | None
    began: float
    ended: float | None
    changed: Sequence[str]
    step: Mapping[str, Any]
    result: Mapping[str, Any]
    error: str
    events: Sequence[int] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `code` is the exit code of the build, None if it was interrupted."""

    state: RunState
    code: int | None
    changed: Sequence[str] = ()
    result: Mapping[str, Any] | None = None
    error: str = ""
