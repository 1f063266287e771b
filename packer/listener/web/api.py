"""The same as on the pages, for programs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from packer.listener.builds import Builds
from packer.listener.store import Store
from packer.listener.web.documents import (
    MAX_NUMBER,
    BuildsDocument,
    EventDocument,
    EventsDocument,
    RunDocument,
    RunsDocument,
    build_document,
    event_document,
    page_of,
    run_document,
)
from packer.listener.web.looks import looks
from packer.listener.web.refusals import RefusedError, described

Number = Annotated[int, Path(ge=1, le=MAX_NUMBER)]
Limit = Annotated[int, Query(ge=1, le=500, description="How many, at most.")]
Before = Annotated[int | None, Query(ge=1, le=MAX_NUMBER, description="Only those with smaller numbers.")]
Name = Annotated[str | None, Query(max_length=1000, pattern=r"^[^\x00]*$", description="Of this build alone.")]


def api(store: Store, builds: Builds) -> APIRouter:
    """The addresses under /api/."""
    router = APIRouter(prefix="/api", tags=["api"], responses=described(401, 503))

    @router.get("/builds", summary="Every build, and how it stands")
    def get_builds() -> BuildsDocument:
        return BuildsDocument(items=[build_document(look) for look in looks(store, builds)])

    @router.get("/events", summary="Events, the newest first", responses=described(422), response_model=EventsDocument)
    def get_events(limit: Limit = 100, before: Before = None) -> dict[str, Any]:
        return page_of(store.events(limit + 1, before), limit, event_document)

    @router.get("/events/{id}", summary="One event", responses=described(404, 422))
    def get_event(id: Number) -> EventDocument:  # noqa: A002 - the address says so
        return event_document(store.event(id) or _missing("event", id))

    @router.get("/runs", summary="Runs, the newest first", responses=described(422), response_model=RunsDocument)
    def get_runs(build: Name = None, limit: Limit = 100, before: Before = None) -> dict[str, Any]:
        return page_of(store.runs(build, limit + 1, before), limit, run_document)

    @router.get("/runs/{id}", summary="One run", responses=described(404, 422))
    def get_run(id: Number) -> RunDocument:  # noqa: A002 - the address says so
        return run_document(store.run(id) or _missing("run", id))

    return router


def _missing(what: str, number: int) -> Any:
    raise RefusedError(404, "missing", f"there is no {what} {number}")
