"""From events to runs. The runner is a double: it answers at once, and as no real build does on demand."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from packer.listener.builds import Build, Builds, Name
from packer.listener.config import Config, Poll, Retries
from packer.listener.dispatch import Dispatcher, pause, route
from packer.listener.records import Event, EventState, Outcome, Run, RunState
from packer.listener.runner import Tell
from packer.listener.store import Store
from packer.lock import Entry, Locked, Outputs, write_locked
from registry.errors import SpaceError
from registry.events.change import Change, Delivery

OWN = f"sha256:{'a' * 64}"
OTHER = f"sha256:{'b' * 64}"


def write(folder: Path, name: str, **said: Any) -> Path:
    file = folder / name / "packer.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    document = {"source": f"hf://org/{name}", "publish": {"to": f"reg.example/made/{name}:v1"}, **said}
    file.write_text(json.dumps(document))
    return file


def release(file: Path, digest: str) -> None:
    image = f"reg.example/made@{digest}"
    write_locked(file, "", Locked({"source": Entry("a", "b")}, Outputs(image, None, None, ("v1",), ())), ("",))


@pytest.fixture
def builds(tmp_path: Path) -> Builds:
    write(tmp_path, "a")
    write(
        tmp_path, "b", source="oci://reg.example/made/a:v1", publish={"to": "oci:./out", "base": "base.example/x/y:1"}
    )
    more: dict[str, Any] = {
        "quantize": {"recipe": "r", "calibration": "org/data"},
        "evaluate": {"suite": "fidelity", "baseline": "hf://org/first@v2", "data": "org/text@r1/test.jsonl"},
    }
    write(tmp_path, "c", source="hf://org/c@dev", **more)
    return Builds((f"{tmp_path}/*/packer.yaml",))


def routed(builds: Builds, *changes: Change, busy: tuple[str, ...] = ()) -> tuple[str, tuple[str, ...]] | None:
    event = Event(1, 0.0, "/hooks/x", "x", None, changes, EventState.ACCEPTED, "")
    found = route(event, builds.read().values(), busy)
    return (str(found.state), found.builds) if found else None


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (Change("model", "org/a@main"), ("a",)),
        (Change("model", "org/a@refs/pr/1"), ()),
        (Change("model", "org/c@main"), ()),
        (Change("model", "org/c@dev"), ("c",)),
        (Change("model", "org/first@v2"), ("c",)),
        (Change("dataset", "org/data@main"), ("c",)),
        (Change("dataset", "org/text@r1"), ("c",)),
        (Change("dataset", "org/text@main"), ()),
        (Change("dataset", "org/a@main"), ()),
        (Change("artifact", "base.example/x/y:1", OTHER), ("b",)),
        (Change("artifact", "x/y:1"), ("b",)),
        (Change("artifact", "mirror.example/x/y:1"), ("b",)),
        (Change("artifact", "base.example/xx/y:1"), ()),
        (Change("artifact", "base.example/x/y:2"), ()),
        (Change("artifact", "reg.example/made/a:v1", OTHER), ("a", "b")),
        (Change("build", "b"), ("b",)),
        (Change("build", "B"), ()),
    ],
)
def test_an_event_leads_to_the_builds_that_name_what_changed(
    builds: Builds, change: Change, names: tuple[str, ...]
) -> None:
    assert routed(builds, change) == ("matched" if names else "ignored", names)


def test_what_we_published_ourselves_is_known(builds: Builds, tmp_path: Path) -> None:
    """It leads to what is made of it, and not to itself."""
    release(tmp_path / "a/packer.yaml", OWN)
    assert routed(builds, Change("artifact", "reg.example/made/a:v1", OWN)) == ("matched", ("b",))
    assert routed(builds, Change("artifact", "reg.example/made/a:v1", OTHER)) == ("matched", ("a", "b"))
    (tmp_path / "b/packer.yaml").unlink()
    assert routed(builds, Change("artifact", "reg.example/made/a:v1", OWN)) == ("own", ())
    tag = Change("artifact", f"reg.example/made/a:sha256-{'0' * 64}", OTHER)
    assert routed(builds, tag) == ("own", ())
    assert routed(builds, tag, Change("model", "org/c@dev")) == ("matched", ("c",))


def test_while_a_build_runs_nobody_knows_whose_push_it_was(builds: Builds) -> None:
    assert routed(builds, Change("artifact", "reg.example/made/a:v1", OWN), busy=("a",)) is None
    assert routed(builds, Change("model", "org/a@main"), busy=("a",)) == ("matched", ("a",))


def test_builds_are_called_by_the_ends_of_their_paths(tmp_path: Path) -> None:
    for name in ("x/llama", "y/llama", "y/qwen", "y/deep/er"):
        write(tmp_path, name)
    other = tmp_path / "y" / "qwen" / "small.yaml"
    other.write_text("[")
    builds = Builds((f"{tmp_path}/**/*.yaml", f"{tmp_path}/**/packer.yaml"))
    found = builds.read()
    assert set(found) == {"x/llama", "y/llama", "qwen", "er", "small"}
    assert found["small"].error and str(other) in found["small"].error
    assert found["er"].needs == {Name("model", "org/y/deep/er", "main")} or found["er"].error
    assert all(builds.read()[name] is build for name, build in found.items()), "read once"


class Answers:
    """A runner that gives what it is told to, and says what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer: Callable[[Build], Outcome] = lambda _: Outcome(RunState.UNCHANGED, 0)

    def run(self, build: Build, run: Run, tell: Tell, stop: threading.Event) -> Outcome:
        self.asked.append(build.name)
        tell({"stage": "fetch"}, ["source: a -> b"])
        return self.answer(build)


class Desk:
    """A dispatcher whose clock stands still until it is moved."""

    def __init__(self, folder: Path, **said: Any) -> None:
        self.now, self.lines = 1000.0, list[tuple[str, dict[str, Any]]]()
        self.config = Config(builds=(f"{folder}/*/packer.yaml",), quiet=5, **said)
        self.store = Store(f"sqlite:///{folder / 'listener.db'}")
        self.runner = Answers()
        self.dispatcher = Dispatcher(
            self.config,
            self.store,
            Builds(self.config.builds),
            self.runner,
            "me",
            lambda what, **members: self.lines.append((what, members)),
            lambda: self.now,
        )

    def step(self, seconds: float = 0.0) -> None:
        """Let time pass, and all be done that is to be done then."""
        self.now += seconds
        with ThreadPoolExecutor(4) as pool:
            self.dispatcher.step(pool, threading.Event())

    def begin(self) -> None:
        """Let it look at every build once, as it does when it has just begun, and forget that."""
        for _ in range(3):
            self.step(5)
        self.store.forget(self.now + 1)
        self.runner.asked.clear()

    def hear(self, *changes: Change) -> int:
        return self.store.accept("/hooks/x", "plain", Delivery(None, changes), self.now)[0]

    def states(self) -> list[tuple[str, str, int]]:
        """The runs, the oldest first."""
        return [(run.build, str(run.state), run.attempt) for run in reversed(self.store.runs())]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    for name in "ab":
        release(write(tmp_path, name), OWN)
    found = Desk(tmp_path)
    found.begin()
    yield found
    found.store.close()


def test_many_events_in_a_quiet_time_are_one_run(desk: Desk) -> None:
    for _ in range(3):
        desk.hear(Change("model", "org/a@main"))
        desk.step(4)
    assert desk.states() == []
    desk.step(5)
    assert desk.states() == [("a", "unchanged", 0)]
    assert all(event.runs for event in desk.store.events())
    desk.step(100)
    assert desk.runner.asked == ["a"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (Change("model", "org/other@main"), "nothing that is built here is made of it"),
        (Change("build", "aa"), "no build here is called aa"),
    ],
)
def test_what_nobody_needs_is_said_to_be_ignored(desk: Desk, change: Change, why: str) -> None:
    number = desk.hear(change)
    desk.step(10)
    event = desk.store.event(number)
    assert event and (event.state, event.why) == (EventState.IGNORED, why)
    assert desk.runner.asked == []


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (Outcome(RunState.FAILED, 5, error="x"), True),
        (Outcome(RunState.FAILED, 6, error="x"), True),
        (Outcome(RunState.FAILED, 1, error="x"), False),
        (Outcome(RunState.FAILED, 2, error="x"), False),
        (Outcome(RunState.REFUSED, 3), False),
        (Outcome(RunState.REFUSED, 4), False),
        (Outcome(RunState.RELEASED, 0), False),
    ],
)
def test_only_what_may_pass_is_tried_again(desk: Desk, outcome: Outcome, again: bool) -> None:
    desk.runner.answer = lambda _: outcome
    desk.hear(Change("build", "a"))
    desk.step()
    desk.step(5)
    desk.step(29)
    assert len(desk.runner.asked) == 1
    told = [said["again"] for what, said in desk.lines if what == "ended"]
    assert told[-1] == ("1970-01-01T00:17:30.000+00:00" if again else None)
    desk.step(2)
    assert len(desk.runner.asked) == 1 + again
    desk.step(58)
    assert len(desk.runner.asked) == 1 + again
    desk.step(3)
    assert len(desk.runner.asked) == 1 + 2 * again


def test_trying_ends(desk: Desk) -> None:
    desk.runner.answer = lambda _: Outcome(RunState.FAILED, 5)
    desk.hear(Change("build", "a"))
    for _ in range(40):
        desk.step(4000)
    assert [attempt for _, _, attempt in desk.states()] == [0, 1, 2, 3, 4, 5]


def test_pauses_grow_to_a_bound() -> None:
    retries = Retries(times=100, first=30, longest=3600)
    assert [pause(attempt, retries) for attempt in (0, 1, 2, 7, 99)] == [30, 60, 120, 3600, 3600]


def test_a_defect_ends_a_run_and_not_the_listener(desk: Desk) -> None:
    def fail(build: Build) -> Outcome:
        if build.name == "a":
            raise ValueError("oh")
        raise SpaceError("the disk is full", subject="/x", hint="make room")

    desk.runner.answer = fail
    desk.hear(Change("build", "a"), Change("build", "b"))
    desk.step()
    desk.step(5)
    desk.step()
    found = {run.build: run for run in desk.store.runs()}
    assert found["a"].state is RunState.FAILED and "defect" in found["a"].error
    assert found["b"].error == "/x: the disk is full; next: make room"
    assert [want.build for want in desk.store.wants()] == ["b"]
    assert any("ValueError: oh" in members.get("trace", "") for _, members in desk.lines)


def test_a_build_file_that_is_new_or_changed_is_news(desk: Desk, tmp_path: Path) -> None:
    desk.step()
    desk.step(5)
    assert desk.runner.asked == []
    write(tmp_path, "c")
    desk.step()
    desk.step(5)
    assert desk.runner.asked == ["c"]
    write(tmp_path, "a", shard={"max_size": "1MB"})
    desk.step()
    desk.step(5)
    assert desk.runner.asked == ["c", "a"]
    (tmp_path / "b/packer.yaml").write_text("source: [")
    desk.step()
    desk.step(5)
    assert desk.runner.asked == ["c", "a"], "it cannot be read, so nothing runs"
    desk.step()
    assert desk.states()[-1] == ("b", "failed", 0)


def test_a_build_file_that_is_wrong_is_logged_once_for_each_mistake(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "new/packer.yaml"
    file.parent.mkdir()
    for text, seen in (("source: [", 1), ("sourse: x", 2)):
        file.write_text(text)
        desk.step()
        desk.step(1)
        said = [members for what, members in desk.lines if what == "misconfigured"]
        assert len(said) == seen and said[-1]["build"] == "new"
    assert "did you mean 'source'?" in said[-1]["error"]


def test_time_alone_has_all_builds_looked_at(tmp_path: Path) -> None:
    for name in "ab":
        release(write(tmp_path, name), OWN)
    desk = Desk(tmp_path, poll=Poll(every=3600))
    desk.step()
    desk.step(5)
    assert desk.runner.asked == ["a"], "one at a time"
    desk.step()
    assert desk.runner.asked == ["a", "b"], "who has just begun does not know what has changed"
    desk.step(3000)
    desk.step(10)
    assert len(desk.runner.asked) == 2
    desk.step(600)
    desk.step(5)
    desk.step()
    assert len(desk.runner.asked) == 4
    desk.now -= 1_000_000
    desk.step()
    desk.step(5)
    desk.step()
    assert len(desk.runner.asked) == 6, "a clock that was wrong does not stop it"
    desk.store.close()


def test_a_build_whose_file_is_gone_is_said_so(desk: Desk, tmp_path: Path) -> None:
    desk.hear(Change("build", "a"))
    desk.step()
    (tmp_path / "a/packer.yaml").unlink()
    desk.step(5)
    desk.step()
    (run,) = desk.store.runs()
    assert run.state is RunState.FAILED and "any more" in run.error


def test_an_event_waits_while_it_may_be_our_own(desk: Desk) -> None:
    """The push is heard before the lock is written."""

    def publish(build: Build) -> Outcome:
        number = desk.hear(Change("artifact", "reg.example/made/a:v1", OTHER))
        desk.dispatcher._route(desk.dispatcher.builds.read())
        event = desk.store.event(number)
        assert event and event.state is EventState.ACCEPTED
        release(build.file, OTHER)
        return Outcome(RunState.RELEASED, 0)

    desk.runner.answer = publish
    desk.hear(Change("build", "a"))
    desk.step()
    desk.step(5)
    desk.step(5)
    desk.step(5)
    assert [str(event.state) for event in desk.store.events()] == ["own", "matched"]
    assert desk.runner.asked == ["a"]


def test_what_cannot_be_kept_of_the_progress_does_not_end_a_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is away for a while; then what came of it is written."""
    from sqlalchemy.exc import OperationalError

    away = OperationalError("", {}, Exception("gone"))
    finish, failures = desk.store.finish, [away]

    def fail(*_: object, **__: object) -> None:
        raise away

    def fail_once(*arguments: Any) -> bool:
        if failures:
            raise failures.pop()
        return finish(*arguments)

    monkeypatch.setattr(desk.store, "tell", fail)
    monkeypatch.setattr(desk.store, "finish", fail_once)
    monkeypatch.setattr("packer.listener.dispatch.PAUSE", 0.01)
    desk.hear(Change("build", "a"))
    desk.step()
    desk.step(5)
    assert desk.states() == [("a", "unchanged", 0)]
    assert [what for what, _ in desk.lines if what == "database"] == ["database", "database"]


def test_a_failure_of_the_machine_may_pass(desk: Desk) -> None:
    def fail(_: Build) -> Outcome:
        raise OSError(28, "No space left on device")

    desk.runner.answer = fail
    desk.hear(Change("build", "a"))
    desk.step()
    desk.step(5)
    (run,) = desk.store.runs()
    assert run.state is RunState.FAILED and "defect" not in run.error
    assert [want.build for want in desk.store.wants()] == ["a"]


def test_a_build_file_that_is_away_for_a_moment_is_not_forgotten(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / "a/packer.yaml"
    text = file.read_text()
    file.unlink()
    desk.step()
    file.write_text(text.replace("org/a", "org/other"))
    desk.step()
    desk.step(5)
    assert desk.runner.asked == ["a"]


def test_builds_that_would_wake_each_other_are_not_built(tmp_path: Path) -> None:
    """Two that publish one tag, also as the ModelPack manifest, and those that are made of each other."""
    to = {"to": "reg.example/made/same:v1"}
    write(tmp_path, "a", publish=to)
    write(tmp_path, "b", publish=to)
    write(tmp_path, "c", publish={"to": "reg.example/made/same:v1-modelpack"})
    write(tmp_path, "d", publish={"to": "other.example/made/same:v1"})
    for name, source in (("x", "z"), ("y", "x"), ("z", "y"), ("after", "x")):
        write(tmp_path, name, source=f"oci://reg.example/made/{source}:v1")
    found = Builds((f"{tmp_path}/*/packer.yaml",)).read()
    assert {name for name, build in found.items() if build.error} == {"a", "b", "c", "x", "y", "z"}
    assert "is published by b" in found["a"].error
    assert "made of the other" in found["x"].error


def test_every_file_is_a_build_of_its_own_and_a_link_to_it_is_none(tmp_path: Path) -> None:
    write(tmp_path, "m/llama")
    (tmp_path / "m/llama.yaml").write_text((tmp_path / "m/llama/packer.yaml").read_text())
    (tmp_path / "m/llama/packer.yml").write_text((tmp_path / "m/llama/packer.yaml").read_text())
    (tmp_path / "m/linked").mkdir()
    (tmp_path / "m/linked/packer.yaml").symlink_to(tmp_path / "m/llama/packer.yaml")
    patterns = tuple(f"{tmp_path}/m/{pattern}" for pattern in ("*.yaml", "*/packer.y*ml", "llama/../llama/packer.yaml"))
    found = Builds(patterns).read()
    assert sorted(found) == ["llama.yaml", "packer.yaml", "packer.yml"]


def test_a_name_that_is_no_text_is_shown_as_what_it_is(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "packer.yaml").write_text("source: hf://org/a\npublish: {to: 'oci:out'}\n")
    desk = Desk(tmp_path)
    desk.begin()
    desk.hear(Change("model", "ORG/A@main"))
    desk.step()
    desk.step(5)
    assert desk.runner.asked == ["caf\\xe9"]
    desk.store.close()
