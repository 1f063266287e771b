"""What the parent makes of a child that ends in the middle of something.

All but the last are scripts of a line: a real child cannot be made to die between two given bytes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest

from recipes import child, worker
from recipes.child import Answer, run_child
from recipes.task import Done, Step, Task
from registry.errors import ModelError, SpaceError, UsageError

STEP = '{"event": "step", "done": 1, "total": 2, "unit": "files", "name": "a", "host": 1, "device": 0}\n'
DONE = (
    '{"event": "done", "done": {"files": {"a": ["a"]}, "modules": [], "config": {}}, '
    '"seconds": 1.5, "host": 7, "device": 0, "kind": "NVIDIA H100"}\n'
)
LARGE = "x" * (1 << 20)
"""Settings that no pipe holds."""

READ = "import sys; sys.stdin.read()\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"1234")
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str, told: list[Step | str]) -> Answer:
    monkeypatch.setattr(child, "_command", lambda: [sys.executable, "-c", script])
    return run_child(Task("llmcompressor", {"a": LARGE}, folder, folder, ("a",)), {}, told.append)


def test_an_answer(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    told: list[Step | str] = []
    got = answer(monkeypatch, folder, f"{READ}print({STEP + DONE!r}, end='')", told)
    assert got == Answer(Done({"a": ("a",)}, ()), 1.5, 7, 0, 4, "NVIDIA H100")
    assert told == [Step(1, 2, "files", "a", 1, 0)]


def test_a_child_that_dies_before_it_has_read_its_task(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """That no one reads what we write is no closed standard output of ours."""
    with pytest.raises(ModelError, match="ended with code 3") as caught:
        answer(monkeypatch, folder, "import os, sys; print('no memory here', file=sys.stderr); sys.exit(3)", [])
    assert caught.value.found == "no memory here"


@pytest.mark.parametrize("last", [STEP[:40], DONE[:40], DONE[:-1], DONE[:-3] + "\udcff"])
def test_a_child_that_is_killed_within_a_line(monkeypatch: pytest.MonkeyPatch, folder: Path, last: str) -> None:
    script = (
        f"{READ}import os; os.write(1, {(STEP + last).encode(errors='surrogateescape')!r}); os.kill(os.getpid(), 9)"
    )
    told: list[Step | str] = []
    with pytest.raises(SpaceError, match="memory ran out"):
        answer(monkeypatch, folder, script, told)
    assert len(told) == 1


def test_only_linux_has_the_kernel_end_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the C library has no such function."""

    class Library:
        def __init__(self, _: None) -> None:
            self.prctl = lambda option, signal: asked.append((option, signal))

    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(ctypes, "CDLL", Library)
    for platform in ("linux", "darwin"):
        monkeypatch.setattr(sys, "platform", platform)
        worker._die_with_parent()
    assert asked == [(1, 9)]


def test_a_real_child_tells_what_it_failed_of(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"llama\.cpp has no such option") as caught:
        run_child(Task("llama.cpp", {"colour": "red"}, folder, folder, ("a",)), os.environ, lambda _: None)
    assert caught.value.found == "colour"
