"""The pages: read-only, whole without scripts, and everything on them escaped."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from formats.text import printable
from packer.listener.builds import Builds
from packer.listener.config import Config
from packer.listener.store import Store
from packer.listener.web import words
from packer.listener.web.documents import MAX_NUMBER, step_of
from packer.listener.web.guard import REPORT_POLICY
from packer.listener.web.logs import log_of, report_of
from packer.listener.web.looks import TROUBLE, Look, Standing, look, looks, variants_of
from packer.listener.web.refusals import RefusedError

SHOWN = 20
"""Events or runs on a page."""

_FOLDER = Path(__file__).parent
_STATIC = {"page.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


class Pages:
    """Makes the pages. `clock` tells seconds since 1970; `refused` counts requests of senders, by path and reason."""

    def __init__(
        self,
        config: Config,
        store: Store,
        builds: Builds,
        logs: Path,
        clock: Callable[[], float],
        refused: Mapping[tuple[str, str], int],
    ) -> None:
        self._config, self._store, self._builds, self._logs, self._clock = config, store, builds, logs, clock
        self._refused = refused
        self._environment = _environment()

    def router(self) -> APIRouter:
        """The addresses of the pages."""
        router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        router.get("/")(self.overview)
        router.get("/events")(self.events)
        router.get("/events/{number}")(self.event)
        router.get("/runs")(self.runs)
        router.get("/runs/{number}")(self.run)
        router.get("/runs/{number}/report")(self.report)
        router.get("/runs/{number}/report/{variant}")(self.report)
        router.get("/builds/{name:path}")(self.build)
        router.get("/static/{name}")(_static)
        return router

    def overview(self) -> str:
        """How everything stands, and what happened last."""
        found = looks(self._store, self._builds)
        events = self._store.events(SHOWN + 1)
        return self._page(
            "overview",
            looks=found,
            events=events[:SHOWN],
            older=events[SHOWN - 1].id if len(events) > SHOWN else None,
            waiting=self._store.waiting(),
            patterns=self._config.builds,
            hooks=self._config.sources,
            refused=sorted(dict(self._refused).items()),
            **_headline(found),
        )

    def events(self, request: Request) -> str:
        """Events, the newest first."""
        found = self._store.events(SHOWN + 1, _before(request))
        older = found[SHOWN - 1].id if len(found) > SHOWN else None
        return self._page("events", events=found[:SHOWN], older=older)

    def runs(self, request: Request) -> str:
        """Runs, the newest first."""
        found = self._store.runs(None, SHOWN + 1, _before(request))
        older = found[SHOWN - 1].id if len(found) > SHOWN else None
        return self._page("runs", runs=found[:SHOWN], older=older)

    def event(self, number: str) -> str:
        """An event, and what it led to."""
        event = self._store.event(_number(number)) or _missing()
        return self._page("event", event=event, runs=self._store.led(event.runs[:SHOWN]))

    def run(self, number: str) -> str:
        """A run, its log, and what came of it."""
        run = self._store.run(_number(number)) or _missing()
        log, left = log_of(self._logs, run)
        events = [self._store.event(event) for event in run.events[:SHOWN]]
        repeats = [one for one in self._store.led([run.id]) if one.after == run.id]
        want = next((want for want in self._store.wants() if want.after == run.id), None)
        said = {"events": [event for event in events if event], "repeats": repeats, "want": want}
        return self._page("run", run=run, log=log, left=left, **said)

    def build(self, name: str) -> str:
        """A build, and its runs."""
        found = look(self._store, self._builds, name) or _missing()
        return self._page("build", look=found, runs=self._store.runs(found.name, SHOWN))

    def report(self, number: str, variant: str = "") -> Response:
        """The page about what was measured."""
        run = self._store.run(_number(number)) or _missing()
        page = report_of(self._logs, run, variant) or _missing()
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return Response(page, headers=headers, media_type="text/html; charset=utf-8")

    def problem(self, status: int, text: str) -> str:
        """A page about a request that is not served."""
        return self._page("problem", status=status, text=text)

    def _page(self, name: str, **values: Any) -> str:
        template = self._environment.get_template(f"{name}.html.j2")
        return template.render(now=self._clock(), page=name, **values)


def _environment() -> Environment:
    """Whatever is put into a template is made visible and escaped, unless the template itself made it."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["address"] = lambda text: quote(text, errors="replace")
    environment.filters["breakable"] = _breakable
    environment.filters["lines"] = lambda text: Markup("\n").join(text.split("\n"))
    environment.globals.update(
        words=words,
        variants_of=variants_of,
        step_of=step_of,
        Standing=Standing,
        asset=lambda name: f"/static/{name}?{_asset(name)[1]}",
    )
    return environment


def _visible(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> Markup:
    """A reference that may go on in the next line behind a slash or a colon."""
    return Markup("<wbr>").join(re.findall(r"[^/:]*[/:]+|[^/:]+", printable(text)))


@cache
def _asset(name: str) -> tuple[bytes, str]:
    """A file that lies beside the pages, and what differs when it does."""
    data = (_FOLDER / "static" / name).read_bytes()
    return data, hashlib.sha256(data).hexdigest()[:12]


def _static(name: str) -> Response:
    if name not in _STATIC:
        _missing()
    return Response(_asset(name)[0], headers=_FOREVER, media_type=_STATIC[name])


def _headline(found: list[Look]) -> Mapping[str, str]:
    """How everything stands in a line, and the tone of it."""
    standings = [one.standing for one in found]
    building, trouble = standings.count(Standing.BUILDING), sum(standing in TROUBLE for standing in standings)
    many = len(found) != 1
    if not found:
        return {"tone": "idle", "headline": "No build yet"}
    if trouble:
        verb = "need" if trouble != 1 else "needs"
        return {"tone": "bad", "headline": f"{words.counted(trouble, 'build')} {verb} attention"}
    if building:
        return {"tone": "busy", "headline": f"{words.counted(building, 'build')} running"}
    if all(standing is Standing.CURRENT for standing in standings):
        return {"tone": "good", "headline": "All builds are up to date" if many else "Up to date"}
    waiting = sum(standing in {Standing.WAITING, Standing.INTERRUPTED} for standing in standings)
    if waiting:
        return {"tone": "busy", "headline": f"{words.counted(waiting, 'build')} waiting"}
    new = standings.count(Standing.NEW)
    return {"tone": "idle", "headline": f"{words.counted(new, 'build')} not built yet"}


def _number(text: str) -> int:
    """The number in an address."""
    if not text.isascii() or not text.isdecimal() or len(text) > 10 or not 1 <= int(text) <= MAX_NUMBER:
        _missing()
    return int(text)


def _before(request: Request) -> int | None:
    text = request.query_params.get("before", "")
    return _number(text) if text else None


def _missing() -> Any:
    raise RefusedError(404, "missing")
