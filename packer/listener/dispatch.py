"""From events to runs: which builds an event may concern, when they are due, and what is done about one that failed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Event as Flag
from typing import Any, Protocol

from sqlalchemy.exc import SQLAlchemyError

from packer.failures import PASSING, expected
from packer.listener.builds import Build, Builds, is_of_referrers, makers, meant
from packer.listener.config import Config, Retries
from packer.listener.records import Event, EventState, Outcome, Routed, Run, RunState, in_a_line
from packer.listener.runner import Runner
from packer.listener.store import Store
from packer.lock import lock_path, read_lock
from registry.errors import PackerError, TransferError
from registry.events.change import Change, Delivery

BEAT = 10
"""Seconds between two signs of life of a run."""

PAUSE = 5
"""Seconds without work after what should not happen."""

TIDY = 3600
"""Seconds between two times that what is old is forgotten."""

AT_ONCE = 20
"""Events that are looked at together: senders wait as long as what becomes of them is written."""

GATHER = 0.1
"""Seconds in which more events may come before the first of them are looked at."""

SILENCE = 120
"""Seconds without one, after which a run is another's to repeat."""

POLL, FILES = "poll", "files"
"""The paths of events that the listener makes itself: of time that passed, of build files that are new or changed."""


class Log(Protocol):
    """Takes what happens, as a word and members."""

    def __call__(self, what: str, **members: Any) -> None:
        """`what` is a few words; members are JSON values."""


@dataclass(frozen=True)
class Route:
    """What becomes of an event, and why; `builds` are those that it leads to."""

    state: EventState
    why: str
    builds: tuple[str, ...] = ()


def route(event: Event, builds: Collection[Build], busy: Collection[str]) -> Route | None:
    """What becomes of an event; None while a build that runs may be about to say that it is its own.

    `busy` are the builds that run.
    """
    parts = [_route(change, builds, busy) for change in event.changes]
    if any(part is None for part in parts):
        return None
    found = [part for part in parts if part]
    wanted = tuple(dict.fromkeys(name for part in found for name in part.builds))
    if wanted:
        return Route(EventState.MATCHED, "; ".join(part.why for part in found if part.builds)[:500], wanted)
    own = next((part for part in found if part.state is EventState.OWN), None)
    return own or Route(EventState.IGNORED, _nothing(event.changes))


def _nothing(changes: Collection[Change]) -> str:
    """Why changes lead to nothing."""
    strange = [change.reference for change in changes if change.kind == "build"]
    return (
        f"no build here is called {', '.join(strange)}"[:500] if strange else "nothing that is built here is made of it"
    )


def _route(change: Change, builds: Collection[Build], busy: Collection[str]) -> Route | None:
    if is_of_referrers(change):
        return Route(EventState.OWN, "this tag holds referrers or signatures")
    made = makers(change, builds)
    wanted = meant(change, builds)
    if any(build.name in busy for build in made):
        return None
    own = {build.name for build in made if change.digest and change.digest in _released(build)}
    wanted = [name for name in wanted if name not in own]
    if wanted:
        return Route(EventState.MATCHED, f"{change.kind} {change.reference}", tuple(wanted))
    return Route(EventState.OWN, f"{', '.join(sorted(own))} published it") if own else Route(EventState.IGNORED, "")


def _released(build: Build) -> set[str]:
    """The digests of what a build released last, by its lock."""
    try:
        releases = [locked.outputs for locked in read_lock(lock_path(build.file)).builds.values()]
    except (PackerError, OSError):
        return set()
    references = (one for outputs in releases for one in (outputs.image, outputs.modelpack) if one)
    return {reference.rpartition("@")[2] for reference in references}


def pause(attempt: int, retries: Retries) -> float:
    """Seconds before a build that failed is tried again for the `attempt`-th time, from 0."""
    return float(min(retries.first * 2 ** min(attempt, 60), retries.longest))


@dataclass
class Dispatcher:
    """Looks after events and runs until it is stopped.

    `clock` tells seconds since 1970; `forget` is called now and then with the time before which nothing need be kept,
    but of some runs.
    """

    config: Config
    store: Store
    builds: Builds
    runner: Runner
    owner: str
    log: Log
    clock: Callable[[], float] = time.time
    forget: Callable[[float, Collection[int]], None] = lambda _before, _kept: None
    _bell: Flag = field(default_factory=Flag)
    _known: dict[str, Build] = field(default_factory=dict)
    _working: dict[Future[None], Run] = field(default_factory=dict)
    _done: dict[str, float] = field(default_factory=dict)

    def wake(self) -> None:
        """Something happened: look at once."""
        self._bell.set()

    def work(self, stop: Flag) -> None:
        """Go on until `stop` is set and what runs has ended, or given up."""
        with ThreadPoolExecutor(self.config.concurrency, "build") as pool:
            while not stop.is_set():
                self._bell.clear()
                try:
                    self.step(pool, stop)
                except Exception as error:  # noqa: BLE001 - a database may be away for a while
                    self.log("defect", trace="".join(traceback.format_exception(error)))
                    stop.wait(PAUSE)
                self._bell.wait(0.5)
                stop.wait(GATHER)
            self._await_the_last()

    def _await_the_last(self) -> None:
        """What runs still lives, until it has ended."""
        while any(not future.done() for future in self._working):
            with suppress(SQLAlchemyError):
                self._beat()
            time.sleep(0.2)

    def step(self, pool: ThreadPoolExecutor, stop: Flag) -> None:
        """All that is to be done now."""
        builds = self.builds.read()
        now = self.clock()
        self._notice(builds, now)
        self._poll(builds, now)
        self._route(builds)
        self._beat()
        self._recover()
        self._tidy(now)
        self._start(pool, builds, stop)

    def recover(self, silent_since: float) -> None:
        """Have the runs repeated that nothing was heard of since then."""
        for run in self.store.recover(silent_since, self.clock(), self.config.retries.first):
            self.log("interrupted", run=run.id, build=run.build, owner=run.owner)

    def _notice(self, builds: Mapping[str, Build], now: float) -> None:
        """Make an event of build files that changed; who has just begun does not know which have, and takes all."""
        if new := [name for name, build in builds.items() if self._is_news(build)]:
            self._say(FILES, new, now)
        for build in builds.values():
            if build.error and (build.name not in self._known or build.error != self._known[build.name].error):
                self.log("misconfigured", build=build.name, error=build.error)
        self._known |= builds

    def _is_news(self, build: Build) -> bool:
        known = self._known.get(build.name)
        return known != build if known else not build.error

    def _poll(self, builds: Mapping[str, Build], now: float) -> None:
        every = self.config.poll.every
        if every and builds:
            last = self.store.last_accepted(POLL)
            if last is None or not 0 <= now - last < every:
                self._say(POLL, list(builds), now)

    def _say(self, path: str, names: Collection[str], now: float) -> None:
        changes = tuple(Change("build", name) for name in names)
        self.store.accept(path, path, Delivery(None, changes), now)

    def _route(self, builds: Mapping[str, Build]) -> None:
        busy = {run.build for run in self.store.running()}
        last = 0
        while events := self.store.accepted(after=last, limit=AT_ONCE):
            found = [(event, one) for event in events if (one := route(event, builds.values(), busy))]
            self._lead(found)
            last = events[-1].id

    def _lead(self, found: Sequence[tuple[Event, Route]]) -> None:
        due = self.clock() + self.config.quiet
        routed = [Routed(event.id, one.state, one.why, dict.fromkeys(one.builds, due)) for event, one in found]
        said = self.store.route_all(routed, self.config.patience) if routed else []
        for is_mine, (event, one) in zip(said, found, strict=True):
            if is_mine:
                self.log("routed", event=event.id, state=one.state, why=one.why, builds=list(one.builds))

    def _beat(self) -> None:
        """Say that what runs here lives."""
        self._working = {future: run for future, run in self._working.items() if not future.done()}
        if self._is_time("beat", BEAT):
            for run in self._working.values():
                self.store.tell(run.id, self.clock())

    def _recover(self) -> None:
        """Look for what another left."""
        if self._is_time("recover", BEAT):
            self.recover(self.clock() - SILENCE)

    def _tidy(self, now: float) -> None:
        if self._is_time("tidy", TIDY):
            before = now - self.config.keep
            self.store.forget(before)
            self.forget(before, {run.id for run in self.store.released().values()})

    def _is_time(self, what: str, every: float) -> bool:
        """Whether something was not done for so many seconds; it is done now."""
        now, last = time.monotonic(), self._done.get(what)
        if last is not None and now - last < every:
            return False
        self._done[what] = now
        return True

    def _start(self, pool: ThreadPoolExecutor, builds: Mapping[str, Build], stop: Flag) -> None:
        while len(self._working) < self.config.concurrency and not stop.is_set():
            run = self.store.start(self.owner, self.clock())
            if not run:
                return
            self.log("started", run=run.id, build=run.build, attempt=run.attempt, after=run.after)
            self._working[pool.submit(self._run, run, builds.get(run.build), stop)] = run

    def _run(self, run: Run, build: Build | None, stop: Flag) -> None:
        outcome = self._outcome(run, build, stop)
        again = self._again(run, outcome)
        self._insist(lambda: self.store.finish(run, outcome, self.clock(), again), run, stop)
        due = None if again is None else datetime.fromtimestamp(again, UTC).isoformat(timespec="milliseconds")
        self.log("ended", run=run.id, build=run.build, state=outcome.state, error=outcome.error, again=due)
        self.wake()

    def _insist(self, finish: Callable[[], object], run: Run, stop: Flag) -> None:
        """Write how a run ended, also if the database is away for a while; who stops does not wait for that."""
        while True:
            try:
                finish()
            except SQLAlchemyError as error:
                self.log("database", run=run.id, error=str(error.__class__.__name__))
                if stop.is_set():
                    return
                stop.wait(PAUSE)
            else:
                return

    def _outcome(self, run: Run, build: Build | None, stop: Flag) -> Outcome:
        if not build:
            return Outcome(RunState.FAILED, TransferError.exit_code, error="no build file has this name any more")
        if build.error:
            return Outcome(RunState.FAILED, 2, error=build.error)
        try:
            return self.runner.run(build, run, lambda step=None, changed=(): self._tell(run, step, changed), stop)
        except Exception as error:  # noqa: BLE001 - a defect ends one run, and not the listener
            return self._failure(run, expected(error))

    def _failure(self, run: Run, error: Exception) -> Outcome:
        if isinstance(error, PackerError):
            return Outcome(RunState.FAILED, error.exit_code, error=in_a_line(error.to_json()))
        self.log("defect", run=run.id, trace="".join(traceback.format_exception(error)))
        return Outcome(RunState.FAILED, 1, error=f"a defect of packer: {type(error).__name__}: {error}"[:500])

    def _tell(self, run: Run, step: Mapping[str, Any] | None, changed: Collection[str]) -> None:
        """Keep how far a run is; that it cannot be kept is no reason to end it."""
        try:
            self.store.tell(run.id, self.clock(), step=step, changed=tuple(changed))
        except SQLAlchemyError as error:
            self.log("database", run=run.id, error=str(error.__class__.__name__))

    def _again(self, run: Run, outcome: Outcome) -> float | None:
        """When a run is repeated, if it is."""
        if outcome.state is RunState.INTERRUPTED:
            return self.clock()
        if outcome.state is RunState.FAILED and outcome.code in PASSING and run.attempt < self.config.retries.times:
            return self.clock() + pause(run.attempt, self.config.retries)
        return None
