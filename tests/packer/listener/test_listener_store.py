"""What the listener remembers, in SQLite and in PostgreSQL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from packer.listener.records import Arrival, EventState, Outcome, Routed, Run, RunState
from packer.listener.store import Store
from registry.events.change import Change, Delivery
from tests.parts.command import ROOT
from tests.parts.postgres import postgres

CHANGE = Change("model", "org/name@main", None, "0" * 40)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'listener.db'}"
    from sqlalchemy import create_engine, text

    server = str(request.getfixturevalue("server"))
    name = f"test_{abs(hash(request.node.name))}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return f"{server.rpartition('/')[0]}/{name}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    found = Store(url)
    yield found
    found.close()


def heard(store: Store, identity: str | None = None, at: float = 100.0) -> int:
    return store.accept("/hooks/hf", "huggingface", Delivery(identity, (CHANGE,)), at)[0]


def led(store: Store, *builds: str, due: float = 105.0, patience: float = 300.0, at: float = 100.0) -> int:
    number = heard(store, at=at)
    assert store.route(number, EventState.MATCHED, "a model", dict.fromkeys(builds, due), patience)
    return number


def started(store: Store, now: float = 200.0) -> Run:
    run = store.start("me", now)
    assert run
    return run


def test_an_event_is_kept_as_it_came(store: Store) -> None:
    number = heard(store, "one")
    (event,) = store.accepted()
    assert (event.id, event.path, event.kind, event.delivery) == (number, "/hooks/hf", "huggingface", "one")
    assert event.changes == (CHANGE,) and event.state is EventState.ACCEPTED and event.at == 100.0


def test_a_replay_is_known_on_its_path_alone(store: Store) -> None:
    first = store.accept("/a", "plain", Delivery("x", (CHANGE,)), 1)
    assert first[1]
    assert store.accept("/a", "plain", Delivery("x", ()), 2) == (first[0], False)
    assert store.accept("/b", "plain", Delivery("x", (CHANGE,)), 3)[1]
    assert store.accept("/a", "plain", Delivery(None, (CHANGE,)), 4)[1]
    assert store.accept("/a", "plain", Delivery(None, (CHANGE,)), 5)[1]
    assert len(store.events()) == 4


def test_an_event_is_routed_once(store: Store) -> None:
    number = led(store, "a", "b")
    assert not store.route(number, EventState.IGNORED, "again", {}, 0)
    assert [(want.build, want.due, want.attempt) for want in store.wants()] == [("a", 105.0, 0), ("b", 105.0, 0)]
    event = store.event(number)
    assert event and event.state is EventState.MATCHED and event.runs == ()


def test_many_events_for_a_build_become_one_run(store: Store) -> None:
    numbers = [led(store, "a", due=105.0 + n) for n in range(5)]
    assert store.start("me", 108.0) is None, "it is not quiet yet"
    run = started(store, 109.0)
    assert store.start("me", 500.0) is None
    found = store.run(run.id)
    assert found and list(found.events) == numbers
    assert all(list(event.runs) == [run.id] for event in store.events())


def test_nobody_is_put_off_for_ever(store: Store) -> None:
    for n in range(100):
        led(store, "a", due=105.0 + 4 * n, patience=60.0, at=100.0 + 4 * n)
    assert [want.due for want in store.wants()] == [160.0]


def test_a_newer_event_for_what_runs_queues_one_more_run(store: Store) -> None:
    led(store, "a")
    first = started(store)
    later = [led(store, "a", due=210.0), led(store, "a", due=211.0)]
    assert store.start("me", 300.0) is None, "no two of a build at once"
    assert store.finish(first, Outcome(RunState.RELEASED, 0), 301.0)
    second = started(store, 302.0)
    found = store.run(second.id)
    assert found and list(found.events) == later and found.after is None


def test_a_failed_run_is_repeated_when_it_is_due(store: Store) -> None:
    led(store, "a")
    first = started(store)
    assert store.finish(first, Outcome(RunState.FAILED, 5, error="no route"), 201.0, again_at=231.0)
    assert store.start("me", 230.0) is None
    second = started(store, 231.0)
    assert (second.attempt, second.after) == (1, first.id)
    assert store.finish(second, Outcome(RunState.INTERRUPTED, None), 232.0, again_at=232.0)
    third = started(store, 232.0)
    assert (third.attempt, third.after) == (1, second.id), "an interruption is no failure"
    led(store, "b")
    assert started(store, 300.0).after is None
    assert [run.id for run in store.led([first.id])] == [first.id, second.id, third.id]
    assert ([run.id for run in store.led([third.id])], store.led([])) == ([third.id], [])


def test_something_newer_takes_the_place_of_a_repetition(store: Store) -> None:
    led(store, "a")
    run = started(store)
    led(store, "a", due=205.0)
    store.finish(run, Outcome(RunState.FAILED, 5), 201.0, again_at=900.0)
    assert [(want.due, want.attempt) for want in store.wants()] == [(205.0, 0)]
    waiting = started(store, 205.0)
    store.finish(waiting, Outcome(RunState.FAILED, 5), 206.0, again_at=900.0)
    led(store, "a", due=300.0)
    assert [(want.due, want.attempt) for want in store.wants()] == [(300.0, 0)], "a new event does not wait for it"


def test_a_run_whose_process_is_gone_is_repeated(store: Store) -> None:
    led(store, "a")
    led(store, "b")
    lost, alive = started(store, 200.0), started(store, 200.0)
    store.tell(alive.id, 290.0, step={"stage": "fetch"})
    (found,) = store.recover(silent_since=280.0, now=300.0, pause=30.0)
    assert found.id == lost.id
    ended = store.run(lost.id)
    assert ended and ended.state is RunState.INTERRUPTED and ended.ended == 300.0
    again = started(store, 300.0)
    assert again.after == lost.id
    assert not store.finish(lost, Outcome(RunState.RELEASED, 0), 310.0), "whoever was given up has no say any more"
    assert not store.recover(280.0, 310.0, 30.0)
    store.tell(alive.id, 330.0)
    assert [run.id for run in store.recover(320.0, 330.0, 30.0)] == [again.id]
    assert [want.due for want in store.wants()] == [360.0], "it may be this run that ends listeners"


def test_two_listeners_do_not_take_the_same(url: str) -> None:
    stores = [Store(url), Store(url)]
    for n in range(20):
        led(stores[0], f"build{n}")
    gate = threading.Barrier(8)

    def take(n: int) -> list[str]:
        gate.wait()
        found = []
        for _ in range(40):
            if run := stores[n % 2].start(f"owner{n}", 500.0):
                found.append(run.build)
        return found

    with ThreadPoolExecutor(8) as pool:
        taken = [build for found in pool.map(take, range(8)) for build in found]
    assert sorted(taken) == sorted(f"build{n}" for n in range(20))
    for store in stores:
        store.close()


def test_an_event_is_looked_at_again_when_asked(store: Store) -> None:
    number = led(store, "a")
    run = started(store)
    store.finish(run, Outcome(RunState.FAILED, 2), 201.0)
    assert store.again(number) and not store.again(number) and not store.again(99)
    assert [event.id for event in store.accepted()] == [number]
    assert store.route(number, EventState.MATCHED, "", {"a": 300.0}, 60.0)
    assert started(store, 300.0).id > run.id


def test_what_is_old_is_forgotten_but_not_what_counts(store: Store) -> None:
    led(store, "a")
    release = started(store)
    store.finish(release, Outcome(RunState.RELEASED, 0, result={"variants": {}}), 201.0)
    led(store, "a", due=210.0)
    unchanged = started(store, 210.0)
    store.finish(unchanged, Outcome(RunState.UNCHANGED, 0), 211.0)
    waiting = led(store, "a", due=900.0)
    unread = heard(store)
    assert store.forget(before=1000.0) == 2
    assert [event.id for event in store.events()] == [unread, waiting]
    assert [run.id for run in store.runs()] == [release.id]
    assert {build: run.id for build, run in store.released().items()} == {"a": release.id}


def test_counts_are_of_all_that_happened(store: Store) -> None:
    led(store, "a")
    heard(store)
    run = started(store)
    said = {"variants": {"": {"bytes": 5}, "b": {"bytes": None}, "c": {"bytes": 7}}}
    assert store.finish(run, Outcome(RunState.REFUSED, 4, (), said), run.began + 9)
    assert not store.finish(run, Outcome(RunState.FAILED, 1), run.began + 10), "it counts once"
    expected = {
        ("events", "huggingface", "matched"): 1,
        ("runs", "a", "refused"): 1,
        ("seconds", "a", "refused"): 9,
        ("bytes", "a", ""): 12,
    }
    assert store.tallies() == expected and store.waiting() == 1
    store.forget(1e12)
    assert store.tallies() == expected and store.answers()


def test_a_mark_differs_when_anything_has_changed(store: Store) -> None:
    marks = [store.mark()]

    def note() -> None:
        marks.append(store.mark())

    number = heard(store)
    note()
    store.route(number, EventState.MATCHED, "a model", {"a": 100.0}, 60.0)
    note()
    run = started(store)
    note()
    store.tell(run.id, 300.0, step={"stage": "fetch"})
    note()
    store.finish(run, Outcome(RunState.FAILED, 5), 400.0, again_at=500.0)
    note()
    store.again(number)
    note()
    assert len(set(marks)) == len(marks) and store.mark() == marks[-1]


def test_several_deliveries_and_routes_are_one_step(store: Store) -> None:
    same = Arrival("/a", "plain", Delivery("x", (CHANGE,)), 1.0)
    found = store.accept_all([same, same, Arrival("/a", "plain", Delivery(None, ()), 1.0)])
    assert [is_new for _, is_new in found] == [True, False, True] and found[0][0] == found[1][0]
    routed = Routed(found[0][0], EventState.IGNORED, "", {})
    assert (store.route_all([routed], 60.0), store.route_all([routed], 60.0)) == ([True], [False])
    none: Any = None
    with pytest.raises(IntegrityError):
        store.accept_all([Arrival("/a", kind, Delivery("y", (CHANGE,)), 1.0) for kind in ("plain", none)])
    assert {event.delivery for event in store.events()} == {"x", None}, "all of them, or none"


ACCEPTING = """
import sys
from packer.listener.store import Store
from registry.events.change import Change, Delivery
store = Store(sys.argv[1])
for n in range(100_000):
    number, _ = store.accept("/a", "plain", Delivery(f"id{n}", (Change("build", "a"),)), 1.0)
    print(number, flush=True)
"""


def test_what_was_accepted_outlives_the_process(url: str) -> None:
    """It is killed at any moment; every number that it told is there."""
    process = subprocess.Popen([sys.executable, "-c", ACCEPTING, url], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout
    told = [int(process.stdout.readline()) for _ in range(50)]
    os.kill(process.pid, signal.SIGKILL)
    told += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    process.stdout.close()
    store = Store(url)
    assert {event.id for event in store.events(limit=200_000)} >= set(told)
    store.close()
