"""The application: hooks for senders, pages for people, metrics and an API for programs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from formats.text import printable
from packer.listener.builds import Builds
from packer.listener.config import Config
from packer.listener.store import Store
from packer.listener.web.api import api
from packer.listener.web.guard import Account, Guard
from packer.listener.web.hooks import Door, Hooks
from packer.listener.web.keeper import Keeper
from packer.listener.web.metrics import TYPE, metrics
from packer.listener.web.pages import Pages
from packer.listener.web.refusals import TEXTS, RefusedError, described
from packer.listener.web.stream import Changes
from registry.events.trust import Trust

_UNTRACED = dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False)
"""Traces would have the addresses, of which some are secret."""

_AS_IT_COMES = {"X-Accel-Buffering": "no"}
"""Has nginx, and those that do as it does, send on what comes at once."""

_AT_ONCE = 4
"""Pages that are made at the same time: more would only keep senders waiting."""

_DESCRIPTION = "Takes webhook deliveries, and tells what came of them. Only the hooks change anything."


def _silent(what: str, **members: Any) -> None:
    """Tell nobody."""


def create_app(
    config: Config,
    store: Store,
    builds: Builds,
    trusts: Mapping[str, Trust | None],
    unguessable: Mapping[str, bytes],
    logs: Path,
    password: bytes | None,
    wake: Callable[[], None],
    clock: Callable[[], float] = time.time,
    log: Callable[..., None] = _silent,
) -> FastAPI:
    """The application for a configuration.

    `trusts` has what proves a sender, by hook path, and `unguessable` the last part of the address where nothing does.
    `logs` is the folder of the runs' logs; `wake` is called when something new was kept; `log` gets a word and members.
    """
    changes = Changes(store.mark)
    hooks = Hooks(Keeper(store.accept_all), wake, clock, log)
    pages = Pages(config, store, builds, logs, clock, hooks.refused)
    app = FastAPI(
        title="packer's listener",
        version=version("packer"),
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        telemetry=_UNTRACED,  # type: ignore[arg-type]
        lifespan=_lifespan(changes),
    )
    app.state.changes = changes
    account = Account(config.login.user, password) if config.login and password else None
    app.add_middleware(Guard, account=account)
    _add_problems(app, pages, log)
    doors = [Door(hook, trusts.get(hook.path), unguessable.get(hook.path)) for hook in config.sources]
    for door in sorted(doors, key=lambda one: (one.ending is not None, -len(one.hook.path))):
        hooks.add(app, door)
    app.include_router(api(store, builds))
    _add_signs(app, store, hooks, changes)
    app.include_router(pages.router())
    return app


def _lifespan(changes: Changes) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _AT_ONCE
        watching = asyncio.create_task(changes.watch())
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    return lifespan


def _add_signs(app: FastAPI, store: Store, hooks: Hooks, changes: Changes) -> None:
    """What tells how it is: health, metrics, changes."""

    @app.get("/healthz", response_class=PlainTextResponse, summary="Whether the process answers", tags=["signs"])
    async def healthz() -> str:
        return "ok\n"

    @app.get(
        "/readyz",
        response_class=PlainTextResponse,
        responses=described(503),
        summary="Whether the database answers",
        tags=["signs"],
    )
    def readyz() -> str:
        store.answers()
        return "ok\n"

    responses = described(401, 503)
    responses[200] = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text."}

    @app.get("/metrics", responses=responses, response_class=Response, summary="Metrics", tags=["signs"])
    def get_metrics() -> Response:
        return Response(metrics(store, hooks), headers={"Content-Type": TYPE})

    @app.get("/stream", include_in_schema=False)
    async def stream() -> StreamingResponse:
        return StreamingResponse(changes.listen(), headers=_AS_IT_COMES, media_type="text/event-stream")


def _add_problems(app: FastAPI, pages: Pages, log: Callable[..., None]) -> None:
    """Whatever is not served is said in one line, for people as a page."""

    def answer(request: Request, status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
        wants_page = "text/html" in request.headers.get("accept", "")
        if wants_page and request.method == "GET" and not request.url.path.startswith(("/api/", "/hooks/")):
            return HTMLResponse(pages.problem(status, text), status, headers)
        return JSONResponse({"error": text}, status, headers)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, RefusedError)
        return answer(request, error.status, error.text, error.headers)

    async def stated(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return answer(request, error.status_code, TEXTS.get(error.status_code, "no"), error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return answer(request, 422, printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")[:300])

    async def busy(request: Request, error: Exception) -> Response:
        log("database", error=type(error).__name__)
        return answer(request, 503, "the database does not answer", {"Retry-After": "5"})

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(HTTPException, stated)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(SQLAlchemyError, busy)
