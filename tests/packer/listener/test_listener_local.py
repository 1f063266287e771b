"""Builds as processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from packer.listener.builds import Build
from packer.listener.local import LocalRunner, Story, forget_logs
from packer.listener.records import Outcome, Run, RunState
from tests.parts.command import ROOT
from tests.parts.place import Place, Slow
from tests.parts.servers import Server


class Told:
    """Keeps what a runner tells."""

    def __init__(self) -> None:
        self.steps: list[Mapping[str, Any]] = []
        self.changed: list[str] = []

    def __call__(self, step: Mapping[str, Any] | None = None, changed: Sequence[str] = ()) -> None:
        self.steps += [step] if step else []
        self.changed = list(changed) or self.changed


def a_run(number: int = 1) -> Run:
    return Run(number, "a", "me", RunState.RUNNING, 0, None, 0.0, None, (), {}, {}, "")


def runner(folder: Path, **changed: Any) -> LocalRunner:
    said = {"memory": None, "timeout": 600.0, "grace": 0.0, "environment": dict(os.environ), **changed}
    return LocalRunner(logs=folder / "runs", **said)


@pytest.fixture
def place(tmp_path: Path, registry: Server) -> Place:
    return Place(tmp_path, registry.address)


def test_a_build_is_released_once_and_then_up_to_date(place: Place, tmp_path: Path) -> None:
    told, build = Told(), Build("a", place.file)
    first = runner(tmp_path).run(build, a_run(1), told, threading.Event())
    assert (first.state, first.code, first.error) == (RunState.RELEASED, 0, "")
    made = first.result and first.result["variants"][""]
    assert made and made["image"].startswith(f"{place.host}/made@sha256:")
    assert made["tags"] == ["v1", "v1-modelpack"] and made["bytes"] > 0 and not made["report"]
    assert any(change.startswith("source: none -> ") for change in told.changed) and told.changed == list(first.changed)
    assert told.changed[0] == "never built"
    assert {"fetch", "publish"} <= {step["stage"] for step in told.steps}
    second = runner(tmp_path).run(build, a_run(2), Told(), threading.Event())
    assert (second.state, second.code, second.changed, second.result) == (RunState.UNCHANGED, 0, [], {"variants": {}})
    logged = [json.loads(line) for line in (tmp_path / "runs/1.log").read_text().splitlines()]
    assert [line["event"] for line in logged][-1] == "release"


def test_variants_are_told_apart(place: Place, tmp_path: Path) -> None:
    place.write({"variants": [{"name": "a"}, {"name": "b"}]})
    outcome = runner(tmp_path).run(Build("a", place.file), a_run(), Told(), threading.Event())
    assert outcome.result and set(outcome.result["variants"]) == {"a", "b"}
    assert {change.partition(":")[0] for change in outcome.changed} == {"a", "b"}


@pytest.mark.parametrize(
    ("more", "state", "code", "said"),
    [
        ({"sourse": 1}, RunState.FAILED, 2, "publish; next: did you mean 'source'?"),
        ({"source": "oci://127.0.0.1:9/none/there:v1"}, RunState.FAILED, 5, "127.0.0.1:9"),
        ({"include": ["config.json"]}, RunState.REFUSED, 3, ""),
    ],
)
def test_what_fails_says_why(
    place: Place, tmp_path: Path, more: dict[str, Any], state: RunState, code: int, said: str
) -> None:
    place.write(more)
    outcome = runner(tmp_path).run(Build("a", place.file), a_run(), Told(), threading.Event())
    assert (outcome.state, outcome.code) == (state, code)
    assert outcome.error and said in outcome.error and "\n" not in outcome.error


def test_a_process_has_no_more_memory_than_it_may(place: Place, tmp_path: Path) -> None:
    """Python itself does not start in that."""
    outcome = runner(tmp_path, memory=4 << 20).run(Build("a", place.file), a_run(), Told(), threading.Event())
    assert outcome.state is RunState.FAILED and outcome.error


def ended(folder: Path, act: Callable[[threading.Event], None], **changed: Any) -> Outcome:
    slow, stop, outcomes = Slow(folder), threading.Event(), []
    work = threading.Thread(
        target=lambda: outcomes.append(runner(folder, **changed).run(Build("a", slow.file), a_run(), Told(), stop))
    )
    work.start()
    slow.asked()
    act(stop)
    work.join(60)
    slow.close()
    assert len(outcomes) == 1
    return outcomes[0]


def test_a_listener_that_stops_ends_its_builds(tmp_path: Path) -> None:
    outcome = ended(tmp_path, lambda stop: stop.set())
    assert (outcome.state, outcome.code) == (RunState.INTERRUPTED, None)


def test_a_build_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    outcome = ended(tmp_path, lambda _: None, timeout=3.0)
    assert outcome.state is RunState.FAILED and "timeout" in outcome.error


def test_a_build_whose_listener_is_killed_is_gone(tmp_path: Path) -> None:
    slow = Slow(tmp_path)
    script = textwrap.dedent(
        """
        import os, sys, threading
        from pathlib import Path
        from packer.listener.builds import Build
        from packer.listener.local import LocalRunner
        from tests.packer.listener.test_listener_local import Told, a_run
        folder = Path(sys.argv[1])
        runner = LocalRunner(folder / "runs", dict(os.environ), None, 600.0, 0.0)
        runner.run(Build("a", folder / "packer.yaml"), a_run(), Told(), threading.Event())
        """
    )
    listener = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    connection = slow.asked()
    listener.send_signal(signal.SIGKILL)
    listener.wait()
    assert connection.recv(1 << 16).startswith(b"GET")
    connection.settimeout(30)
    while connection.recv(1 << 16):
        time.sleep(0.01)  # the end of its connection is the end of the process
    slow.close()


def test_lines_that_are_no_events_change_nothing() -> None:
    story, told = Story(), Told()
    entry = {"name": "b", "value": "1"}
    base = {"kind": "base", "before": entry, "after": entry}
    story.read({"event": "check", "variant": "v", "changed": [base, {**base, "before": None}]}, told)
    assert [change.partition(" ->")[0] for change in story.changed] == ["v: base: b 1", "v: base: none"]
    for line in ({}, {"event": 1}, {"event": "note"}, {"event": "error", "what": "no\nnews\x07", "subject": "a"}):
        story.read(line, told)
    assert story.error == "a: no news\ufffd"
    assert story.outcome(1).error == story.error
    assert "see its log" in Story().outcome(1).error
    assert Story().outcome(-9).code == 6


def test_old_logs_go_but_not_those_of_the_last_releases(tmp_path: Path) -> None:
    for name in ("1.log", "2.log", "3.log", "0123456789abcdef.turn"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (100, 100))
    (tmp_path / "1/report").mkdir(parents=True)
    (tmp_path / "2/report").mkdir(parents=True)
    for name in "12":
        os.utime(tmp_path / name, (100, 100))
    os.utime(tmp_path / "3.log", (300, 300))
    forget_logs(tmp_path, 200.0, {2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0123456789abcdef.turn", "2", "2.log", "3.log"]


def test_a_variant_that_cannot_be_had_does_not_stop_the_others(place: Place, tmp_path: Path) -> None:
    gone = {"name": "gone", "source": "oci://127.0.0.1:9/none/there:v1"}
    place.write({"variants": [gone, {"name": "there"}]})
    outcome = runner(tmp_path).run(Build("a", place.file), a_run(), Told(), threading.Event())
    assert (outcome.state, outcome.code) == (RunState.FAILED, 5)
    assert outcome.result and outcome.result["variants"]["there"]["image"]
