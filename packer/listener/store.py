"""The listener's memory. Each method is one transaction, so that a process may be killed between any two steps.

Nothing is taken from it before what comes of it is in it: an event waits until the builds that it concerns are wanted,
and what is wanted waits until a run of it has begun. A run whose process is gone is wanted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Row, bindparam, case, delete, exists, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from packer.listener.records import Arrival, Event, EventState, Outcome, Routed, Run, RunState, Want
from packer.listener.tables import EVENTS, LEADS, RUNS, TALLIES, WANTS, open_engine
from registry.events.change import Change, Delivery

_ROUTE = (
    update(EVENTS)
    .where(EVENTS.c.id == bindparam("number"))
    .values(state=bindparam("becomes"), why=bindparam("because"))
)


class Store:
    """Events, wants and runs in a database, `sqlite:///PATH` or `postgresql+psycopg://...`."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url)
        self._read = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        is_sqlite = self._engine.dialect.name == "sqlite"
        self._insert = (sqlite if is_sqlite else postgresql).insert
        new = self._insert(EVENTS).on_conflict_do_nothing(index_elements=["path", "delivery"])
        self._new = new.returning(EVENTS.c.id)
        self._turn: AbstractContextManager[Any] = Lock() if is_sqlite else nullcontext()

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        """A transaction that writes. SQLite has one at a time: waiting for it here ends at once when it is over."""
        with self._turn, self._engine.begin() as connection:
            yield connection

    def close(self) -> None:
        """Let the connections go."""
        self._engine.dispose()

    def accept(self, path: str, kind: str, delivery: Delivery, now: float) -> tuple[int, bool]:
        """The number of the event, on the disk, and whether it is new: one with a known identity is not."""
        return self.accept_all([Arrival(path, kind, delivery, now)])[0]

    def accept_all(self, arrivals: Sequence[Arrival]) -> list[tuple[int, bool]]:
        """The same of several at once, which takes little longer than of one.

        All who write take the same in the same order, so that nobody waits for each other.
        """
        order = sorted(range(len(arrivals)), key=lambda n: (arrivals[n].path, arrivals[n].delivery.identity or ""))
        with self._begin() as connection:
            found = {number: self._accept(connection, arrivals[number]) for number in order}
        return [found[number] for number in range(len(arrivals))]

    def _accept(self, connection: Connection, arrival: Arrival) -> tuple[int, bool]:
        identity, changes = arrival.delivery.identity, [asdict(change) for change in arrival.delivery.changes]
        row = {"at": arrival.at, "path": arrival.path, "kind": arrival.kind, "delivery": identity, "changes": changes}
        number = connection.execute(self._new, {**row, "state": EventState.ACCEPTED, "why": ""}).scalar()
        if number is not None:
            return int(number), True
        known = select(EVENTS.c.id).where(EVENTS.c.path == arrival.path, EVENTS.c.delivery == identity)
        return int(connection.execute(known).scalar_one()), False

    def accepted(self, after: int = 0, limit: int = 500) -> list[Event]:
        """The oldest events that nobody has looked at, of greater numbers than `after`."""
        waiting = select(EVENTS).where(EVENTS.c.state == EventState.ACCEPTED, EVENTS.c.id > after)
        with self._read.connect() as connection:
            return [_event(row) for row in connection.execute(waiting.order_by(EVENTS.c.id).limit(limit))]

    def last_accepted(self, path: str) -> float | None:
        """When the last event came on a path."""
        with self._read.connect() as connection:
            last = select(EVENTS.c.at).where(EVENTS.c.path == path).order_by(EVENTS.c.id.desc()).limit(1)
            at = connection.execute(last).scalar()
        return None if at is None else float(at)

    def route(self, event: int, state: EventState, why: str, wanted: Mapping[str, float], patience: float) -> bool:
        """Say what becomes of an event; `wanted` are builds, with the times at which they shall be due.

        Whoever wants what is wanted already puts it off, but never longer than `patience` seconds since it first was.
        False if another has said it before.
        """
        return self.route_all([Routed(event, state, why, wanted)], patience)[0]

    def route_all(self, routed: Sequence[Routed], patience: float) -> list[bool]:
        """The same of several at once, which takes little longer than of one. No event is in it twice."""
        with self._begin() as connection:
            waiting = _waiting(connection, [one.event for one in routed])
            mine = [one for one in routed if one.event in waiting]
            said = [{"number": one.event, "becomes": one.state, "because": one.why} for one in mine]
            leads = [{"event": one.event, "build": build} for one in mine for build in one.wanted]
            if said:
                connection.execute(_ROUTE, said)
            if leads:
                connection.execute(insert(LEADS), leads)
            for one in mine:
                if one.wanted:
                    self._want(connection, one.wanted, waiting[one.event].at, patience)
            for (kind, state), count in Counter((waiting[one.event].kind, one.state) for one in mine).items():
                self._tally(connection, ("events", kind, state), count)
            return [one.event in waiting for one in routed]

    def again(self, event: int) -> bool:
        """Have an event looked at once more; False if there is none, or it still waits."""
        with self._begin() as connection:
            past = update(EVENTS).where(EVENTS.c.id == event, EVENTS.c.state != EventState.ACCEPTED)
            found = connection.execute(past.values(state=EventState.ACCEPTED, why="")).rowcount
            connection.execute(delete(LEADS).where(LEADS.c.event == event))
            return bool(found)

    def _want(self, connection: Connection, wanted: Mapping[str, float], since: float, patience: float) -> None:
        rows = [{"build": build, "since": since, "due": due, "attempt": 0} for build, due in wanted.items()]
        new = self._insert(WANTS).values(rows)
        due, latest = new.excluded.due, WANTS.c.since + patience
        sooner = case((due < latest, due), else_=latest)
        connection.execute(new.on_conflict_do_update(index_elements=["build"], set_={"due": sooner, "attempt": 0}))

    def wants(self) -> list[Want]:
        """What is wanted, the first due first."""
        with self._read.connect() as connection:
            return [Want(**row._mapping) for row in connection.execute(select(WANTS).order_by(WANTS.c.due))]

    def start(self, owner: str, now: float) -> Run | None:
        """Begin a run of the build that is due the longest and has none that runs; None if there is no such build.

        Every event that waited for the build has led to this run.
        """
        running = exists().where(RUNS.c.build == WANTS.c.build, RUNS.c.ended.is_(None))
        due = select(WANTS).where(WANTS.c.due <= now, ~running).order_by(WANTS.c.due)
        try:
            with self._begin() as connection:
                row = connection.execute(due.limit(1)).first()
                return self._start(connection, Want(**row._mapping), owner, now) if row else None
        except IntegrityError:  # another has begun one
            return None

    def _start(self, connection: Connection, want: Want, owner: str, now: float) -> Run | None:
        if not connection.execute(delete(WANTS).where(WANTS.c.build == want.build)).rowcount:
            return None
        row = {"build": want.build, "owner": owner, "attempt": want.attempt, "after": want.after, "began": now}
        empty = {"beat": now, "changed": [], "step": {}, "result": {}, "error": ""}
        made = insert(RUNS).values(**row, **empty, state=RunState.RUNNING).returning(RUNS)
        run = _run(connection.execute(made).one())
        leads = update(LEADS).where(LEADS.c.build == want.build, LEADS.c.run.is_(None))
        connection.execute(leads.values(run=run.id))
        return run

    def tell(self, run: int, now: float, *, step: Mapping[str, Any] | None = None, changed: Sequence[str] = ()) -> None:
        """Keep how far a run is, and what has changed; also without both it says that its process lives."""
        said = {"step": dict(step) if step else None, "changed": list(changed) or None}
        mine = update(RUNS).where(RUNS.c.id == run, RUNS.c.ended.is_(None))
        with self._begin() as connection:
            connection.execute(mine.values(beat=now, **{key: value for key, value in said.items() if value}))

    def finish(self, run: Run, outcome: Outcome, now: float, again_at: float | None = None) -> bool:
        """End a run; `again_at` is when it is to be repeated. False if another has ended it.

        Where the build is wanted already, because of something newer, that stays as it is.
        """
        said = {"state": outcome.state, "error": outcome.error, "result": dict(outcome.result or {}), "ended": now}
        changed = {"changed": list(outcome.changed)} if outcome.changed else {}
        mine = update(RUNS).where(RUNS.c.id == run.id, RUNS.c.ended.is_(None))
        with self._begin() as connection:
            is_mine = bool(connection.execute(mine.values(**said, **changed)).rowcount)
            if is_mine:
                self._tally_run(connection, run.build, outcome, now - run.began)
            if is_mine and again_at is not None:
                failed = outcome.state is RunState.FAILED
                self._repeat(connection, run, run.attempt + failed, again_at, now)
            return is_mine

    def _repeat(self, connection: Connection, run: Run, attempt: int, due: float, now: float) -> None:
        row = {"build": run.build, "since": now, "due": due, "attempt": attempt, "after": run.id}
        connection.execute(self._insert(WANTS).values(row).on_conflict_do_nothing(index_elements=["build"]))

    def recover(self, silent_since: float, now: float, pause: float) -> list[Run]:
        """End the runs that nothing was heard of since a time, and have them repeated.

        That is at once, but after a pause if they repeat an interrupted one: it may be they that end the listener.
        """
        lost = select(RUNS).where(RUNS.c.ended.is_(None), RUNS.c.beat < silent_since)
        outcome = Outcome(RunState.INTERRUPTED, None, error="the listener that ran it is gone")
        with self._read.connect() as connection:
            runs = [_run(row) for row in connection.execute(lost)]
        return [run for run in runs if self.finish(run, outcome, now, now + (pause if self._is_second(run) else 0))]

    def _is_second(self, run: Run) -> bool:
        before = self.run(run.after) if run.after else None
        return before is not None and before.state is RunState.INTERRUPTED

    def event(self, number: int) -> Event | None:
        """An event, with the runs that it led to."""
        return next(iter(self._events(select(EVENTS).where(EVENTS.c.id == number))), None)

    def events(self, limit: int = 100, before: int | None = None) -> list[Event]:
        """Events, the newest first, with the runs that they led to; only those of smaller numbers than `before`."""
        chosen = select(EVENTS).order_by(EVENTS.c.id.desc()).limit(limit)
        return self._events(chosen if before is None else chosen.where(EVENTS.c.id < before))

    def _events(self, chosen: Any) -> list[Event]:
        with self._read.connect() as connection:
            events = [_event(row) for row in connection.execute(chosen)]
            runs = _led(connection, LEADS.c.event, LEADS.c.run, [event.id for event in events])
        return [Event(**{**vars(event), "runs": runs.get(event.id, ())}) for event in events]

    def run(self, number: int) -> Run | None:
        """A run, with the events that led to it."""
        return next(iter(self._runs(select(RUNS).where(RUNS.c.id == number))), None)

    def runs(self, build: str | None = None, limit: int = 100, before: int | None = None) -> list[Run]:
        """Runs, the newest first, with the events that led to them; of one build, if it is given."""
        chosen = select(RUNS).order_by(RUNS.c.id.desc()).limit(limit)
        chosen = chosen if build is None else chosen.where(RUNS.c.build == build)
        return self._runs(chosen if before is None else chosen.where(RUNS.c.id < before))

    def led(self, runs: Sequence[int]) -> list[Run]:
        """These runs and all that repeat them, the oldest first."""
        chosen, new = set[int](), set(runs)
        while new:
            chosen |= new
            with self._read.connect() as connection:
                new = set(connection.scalars(select(RUNS.c.id).where(RUNS.c.after.in_(new)))) - chosen
        return self._runs(select(RUNS).where(RUNS.c.id.in_(chosen)).order_by(RUNS.c.id))

    def running(self) -> list[Run]:
        """The runs without an end, the oldest first."""
        return self._runs(select(RUNS).where(RUNS.c.ended.is_(None)).order_by(RUNS.c.id))

    def released(self) -> dict[str, Run]:
        """The last run of each build that released something."""
        return self._last(select(func.max(RUNS.c.id)).where(RUNS.c.state == RunState.RELEASED))

    def latest(self) -> dict[str, Run]:
        """The last run of each build that has ended."""
        return self._last(select(func.max(RUNS.c.id)).where(RUNS.c.ended.is_not(None)))

    def _last(self, numbers: Any) -> dict[str, Run]:
        chosen = select(RUNS).where(RUNS.c.id.in_(numbers.group_by(RUNS.c.build)))
        return {run.build: run for run in self._runs(chosen)}

    def _runs(self, chosen: Any) -> list[Run]:
        with self._read.connect() as connection:
            runs = [_run(row) for row in connection.execute(chosen)]
            events = _led(connection, LEADS.c.run, LEADS.c.event, [run.id for run in runs])
        return [Run(**{**vars(run), "events": events.get(run.id, ())}) for run in runs]

    def tallies(self) -> dict[tuple[str, str, str], float]:
        """What is counted as it happens, and not forgotten.

        `events` by kind and state; `runs`, and their `seconds`, by build and state; `bytes` uploaded, by build.
        """
        with self._read.connect() as connection:
            return {(name, one, other): number for name, one, other, number in connection.execute(select(TALLIES))}

    def _tally_run(self, connection: Connection, build: str, outcome: Outcome, seconds: float) -> None:
        self._tally(connection, ("runs", build, outcome.state), 1)
        self._tally(connection, ("seconds", build, outcome.state), max(seconds, 0))
        variants = (outcome.result or {}).get("variants", {}).values()
        self._tally(connection, ("bytes", build, ""), sum(variant.get("bytes") or 0 for variant in variants))

    def _tally(self, connection: Connection, key: tuple[str, str, str], number: float) -> None:
        name, first, second = key
        new = self._insert(TALLIES).values(name=name, first=first, second=second, number=number)
        more = TALLIES.c.number + new.excluded.number
        primary = ["name", "first", "second"]
        connection.execute(new.on_conflict_do_update(index_elements=primary, set_={"number": more}))

    def waiting(self) -> int:
        """How many events nobody has looked at."""
        waiting = select(func.count()).where(EVENTS.c.state == EventState.ACCEPTED)
        with self._read.connect() as connection:
            return int(connection.execute(waiting).scalar_one())

    def mark(self) -> tuple[float | None, ...]:
        """Numbers of which one differs when anything has changed."""
        waiting = select(func.count()).where(EVENTS.c.state == EventState.ACCEPTED).scalar_subquery()
        beats = select(func.sum(RUNS.c.beat)).where(RUNS.c.ended.is_(None)).scalar_subquery()
        due, newest = select(func.sum(WANTS.c.due)).scalar_subquery(), select(func.max(EVENTS.c.id)).scalar_subquery()
        latest = select(func.max(RUNS.c.id)).scalar_subquery()
        with self._read.connect() as connection:
            return tuple(connection.execute(select(waiting, newest, beats, latest, due)).one())

    def forget(self, before: float) -> int:
        """Forget the events that came before a time and no longer matter, and the runs that ended before it.

        The last release of each build stays. Returns how many events went.
        """
        kept = select(func.max(RUNS.c.id)).where(RUNS.c.state == RunState.RELEASED).group_by(RUNS.c.build)
        waits = exists().where(LEADS.c.event == EVENTS.c.id, LEADS.c.run.is_(None))
        old = delete(EVENTS).where(EVENTS.c.at < before, EVENTS.c.state != EventState.ACCEPTED, ~waits)
        with self._begin() as connection:
            gone = connection.execute(old).rowcount
            connection.execute(delete(RUNS).where(RUNS.c.ended < before, RUNS.c.id.not_in(kept)))
            return int(gone)

    def answers(self) -> bool:
        """Whether the database answers."""
        with self._read.connect() as connection:
            return bool(connection.execute(select(1)).scalar_one())


def _waiting(connection: Connection, numbers: Sequence[int]) -> dict[int, Any]:
    """Those of some events that nobody has looked at; nobody else will before the transaction ends."""
    chosen = select(EVENTS.c.id, EVENTS.c.at, EVENTS.c.kind).order_by(EVENTS.c.id).with_for_update()
    found = connection.execute(chosen.where(EVENTS.c.id.in_(numbers), EVENTS.c.state == EventState.ACCEPTED))
    return {row.id: row for row in found}


def _led(connection: Connection, key: Any, value: Any, of: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    leads = select(key, value).where(key.in_(of), value.is_not(None)).order_by(value)
    for one, other in connection.execute(leads):
        found.setdefault(one, []).append(other)
    return found


def _event(row: Row[Any]) -> Event:
    said = dict(row._mapping)
    changes = tuple(Change(**change) for change in said.pop("changes"))
    return Event(**{**said, "changes": changes, "state": EventState(said["state"])})


def _run(row: Row[Any]) -> Run:
    said = {key: value for key, value in row._mapping.items() if key != "beat"}
    return Run(**{**said, "state": RunState(said["state"])})
