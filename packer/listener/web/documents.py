"""What the API answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from packer.listener.records import Event, EventState, Run, RunState
from packer.listener.web.looks import Look, Standing, Text, Variant, variants_of

MAX_NUMBER = 2**31 - 1
"""The largest number of an event or a run."""


class ChangeDocument(BaseModel):
    """Something that is said to have changed."""

    kind: Text
    reference: Text
    digest: Text | None
    revision: Text | None


class EventDocument(BaseModel):
    """A delivery that was kept, what became of it, why, and the numbers of the runs that it led to."""

    id: int
    at: datetime
    path: Text
    kind: Text
    delivery: Text | None
    changes: list[ChangeDocument]
    state: EventState
    why: Text
    runs: list[int]


class StepDocument(BaseModel):
    """How far a run is: its stage, and of how many bytes how many are done, where that is known."""

    stage: Text = ""
    text: Text = ""
    bytes: int | None = None
    of: int | None = None


class RunDocument(BaseModel):
    """A time that a build was looked at: what had changed, what came of it. `after` is the run that it repeats."""

    id: int
    build: Text
    state: RunState
    attempt: int
    after: int | None
    began: datetime
    ended: datetime | None
    changed: list[Text]
    step: StepDocument
    error: Text
    events: list[int]
    variants: list[Variant]


class BuildDocument(BaseModel):
    """A build: how it stands, what is wrong, when it is due, its run that goes on, the last that ended or released."""

    name: Text
    standing: Standing
    error: Text
    due: datetime | None
    running: RunDocument | None
    last: RunDocument | None
    release: RunDocument | None


class BuildsDocument(BaseModel):
    """Every build."""

    items: list[BuildDocument]


class EventsDocument(BaseModel):
    """Events, the newest first; `before` gets the next ones, null if there are none."""

    items: list[EventDocument]
    before: int | None


class RunsDocument(BaseModel):
    """Runs, the newest first; `before` gets the next ones, null if there are none."""

    items: list[RunDocument]
    before: int | None


def event_document(event: Event) -> EventDocument:
    """An event for the API."""
    changes = [ChangeDocument(**vars(change)) for change in event.changes]
    return EventDocument(**{**vars(event), "at": moment(event.at), "changes": changes, "runs": list(event.runs)})


def run_document(run: Run) -> RunDocument:
    """A run for the API."""
    return RunDocument(
        id=run.id,
        build=run.build,
        state=run.state,
        attempt=run.attempt,
        after=run.after,
        began=moment(run.began),
        ended=None if run.ended is None else moment(run.ended),
        changed=list(run.changed),
        step=step_of(run),
        error=run.error,
        events=list(run.events),
        variants=variants_of(run),
    )


def step_of(run: Run) -> StepDocument:
    """How far a run is, as far as it can be understood."""
    said: dict[str, Any] = {}
    for key, kind in (("stage", str), ("text", str), ("bytes", int), ("of", int)):
        if isinstance(value := run.step.get(key), kind):
            said[key] = value
    return StepDocument(**said)


def build_document(look: Look) -> BuildDocument:
    """A build for the API."""
    running, last, release = (run_document(run) if run else None for run in (look.running, look.last, look.release))
    return BuildDocument(
        name=look.name,
        standing=look.standing,
        error=look.error,
        due=moment(look.want.due) if look.want else None,
        running=running,
        last=last,
        release=release,
    )


def page_of(found: Sequence[Any], limit: int, document: Callable[[Any], Any]) -> dict[str, Any]:
    """At most `limit` of what was found, of which one more was asked for, and where the next begin."""
    shown = found[:limit]
    return {"items": list(map(document, shown)), "before": shown[-1].id if len(found) > limit else None}


def moment(seconds: float) -> datetime:
    """A time since 1970."""
    return datetime.fromtimestamp(seconds, UTC)
