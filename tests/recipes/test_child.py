"""The child that quantizes: killed, interrupted or out of memory, and what the next run makes of it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from recipes.child import _death
from recipes.task import PARTIAL, Task
from registry.errors import ModelError, SpaceError
from tests.parts.command import PACKER, events, packer, run
from tests.parts.layers import llama
from tests.parts.models import digests

LAYERS = 5
SHARDS = [f"model-{number:05}-of-{LAYERS + 1:05}.safetensors" for number in range(2, LAYERS + 2)]
"""Those in which something is quantized, in the order in which one core makes them."""

PATIENCE = 120.0
"""Seconds after which something that must happen will not."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("model") / "model", LAYERS, hidden=512, inner=4096)


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of what comes of the model when nothing happens."""
    folder = tmp_path_factory.mktemp("whole") / "made"
    packer("quantize", model, folder, "--recipe", "fp8-dynamic")
    return digests(folder)


def one_core(limit: int | None = None) -> Callable[[], None]:
    """For a process that is to be: one file after the other, Ctrl-C heeded, and at most so many bytes of data."""

    def prepare() -> None:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        # a shell that runs the tests in the background makes its children ignore SIGINT
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    return prepare


@contextlib.contextmanager
def running(*arguments: str | Path, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command under test, until the block ends."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, **(env or {})}
    with subprocess.Popen([PACKER, *arguments], env=environment, preexec_fn=one_core(), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def until(condition: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    """What the condition gives as soon as it gives something; the process must not end before."""
    late = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < late
        time.sleep(0.005)
    return found


def child_of(process: subprocess.Popen[str]) -> int:
    """The child that works for a process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == process.pid and b"recipes.worker" in stat.with_name("cmdline").read_bytes():
                return int(stat.parent.name)
    return 0


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def finished(folder: Path) -> dict[str, tuple[int, int]]:
    """The weight files in a workshop whose names say that they are whole: their inodes, and when they were written."""
    marks = {path.name: path.stat() for path in folder.glob("model-*.safetensors")}
    return {name: (mark.st_ino, mark.st_mtime_ns) for name, mark in marks.items()}


def no_half_file(folder: Path, whole: dict[str, str]) -> None:
    """Whatever has the name of a weight file is one, and something is still to be done."""
    there = {name: digest for name, digest in digests(folder).items() if name in SHARDS}
    assert there.items() <= whole.items()
    assert len(there) < LAYERS
    others = {path.name for path in folder.iterdir()} - there.keys()
    assert all(name.startswith((PARTIAL, ".packer-")) for name in others), others


def test_packer_quantize_goes_on_after_kill_and_interruption(
    model: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    target, work = tmp_path / "made", tmp_path / "made/.packer-staging"
    command = ("quantize", model, target, "--recipe", "fp8-dynamic")
    with running(*command) as process:
        until((work / SHARDS[0]).exists, process)
        child = child_of(process)
        process.kill()
        until(lambda: is_gone(child))
    no_half_file(work, whole)
    first = finished(work)
    assert SHARDS[0] in first
    with running(*command) as process:
        until((work / SHARDS[len(first)]).exists, process)
        child = child_of(process)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=PATIENCE)[1]
        assert (process.returncode, "Traceback" in stderr) == (130, False), stderr
        assert "run it again" in stderr
        assert is_gone(child)
    no_half_file(work, whole)
    second = finished(work)
    assert first.items() < second.items()
    last = events(*command)[-1]
    assert last["is_new"]
    assert digests(target) == whole
    assert second.items() < finished(target).items()
    assert not work.exists()


def test_packer_build_goes_on_after_kills_of_either(model: Path, whole: dict[str, str], tmp_path: Path) -> None:
    environment = {"PACKER_CACHE": str(tmp_path / "cache")}
    command = ("build", model, "--quantize", "fp8-dynamic", "--until", "quantize")

    def made(count: int) -> Callable[[], list[Path]]:
        return lambda: (found := [*tmp_path.glob("cache/quantized/*/model-*.safetensors")])[count - 1 :] and found

    with running(*command, env=environment) as process:
        (work,) = {path.parent for path in until(made(1), process)}
        child = child_of(process)
        process.kill()
        until(lambda: is_gone(child))
    no_half_file(work, whole)
    first = finished(work)
    with running(*command, env=environment) as process:
        until(made(len(first) + 1), process)
        os.kill(child_of(process), signal.SIGKILL)
        stderr = process.communicate(timeout=PATIENCE)[1]
    assert (process.returncode, "Traceback" in stderr) == (6, False), stderr
    assert "error: memory ran out" in stderr
    assert f"{2 * (model / SHARDS[0]).stat().st_size} bytes" in stderr
    assert "--max-size" in stderr and "killed" in stderr
    no_half_file(work, whole)
    second = finished(work)
    assert first.items() < second.items()
    last = events(*command, env=environment)[-1]
    assert last["is_new"]
    third = finished(work)
    assert second.items() < third.items()
    assert {name: digest for name, digest in digests(work).items() if name in SHARDS}.items() <= whole.items()
    assert not [path for path in work.iterdir() if path.name.startswith(PARTIAL) or path.is_dir()]
    again = events(*command, env=environment)[-1]
    assert (again["is_new"], again["seconds"], finished(work)) == (False, last["seconds"], third)


def test_a_disk_that_others_fill_meanwhile(model: Path, whole: dict[str, str], tmp_path: Path) -> None:
    target, disk = tmp_path / "disk/made", tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk)
    command = ("quantize", model, target, "--recipe", "fp8-dynamic")
    work = target / ".packer-staging"
    try:
        with running(*command) as process:
            until((work / SHARDS[0]).exists, process)
            with contextlib.suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
                while ballast.write(bytes(1 << 20)):
                    pass
            stderr = process.communicate(timeout=PATIENCE)[1]
        assert (process.returncode, "Traceback" in stderr) == (6, False), stderr
        assert "error: " in stderr and "the disk is full" in stderr
        no_half_file(work, whole)
        assert SHARDS[0] in finished(work)
    finally:
        run("umount", disk)


def sparse(path: Path, name: str, rows: int, columns: int) -> None:
    """A weight file with a tensor of zeros that takes no room on the disk."""
    size = 2 * rows * columns
    header = json.dumps({name: {"dtype": "BF16", "shape": [rows, columns], "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)


def test_memory_that_runs_out_costs_what_was_not_whole_yet(tmp_path: Path) -> None:
    """1.3 GB are enough for the libraries and the first file, and too little for the second."""
    model, cache = tmp_path / "model", tmp_path / "cache"
    model.mkdir()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    modules = [f"model.layers.{number}.mlp.up_proj.weight" for number in (0, 1)]
    sparse(model / names[0], modules[0], 256, 256)
    sparse(model / names[1], modules[1], 25_600, 4096)
    index = {"metadata": {}, "weight_map": dict(zip(modules, names, strict=True))}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    (model / "config.json").write_text('{"model_type": "tiny"}')
    environment = {"PACKER_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    command = ("build", model, "--quantize", "fp8-dynamic", "--until", "quantize")
    done = packer(*command, env=environment, check=False, preexec_fn=one_core(1300 << 20))
    assert (done.returncode, "Traceback" in done.stderr) == (6, False), done.stderr
    assert "error: memory ran out" in done.stderr
    (work,) = (cache / "quantized").iterdir()
    first = finished(work)
    assert first.keys() == {names[0]}
    assert events(*command, env=environment)[-1]["is_new"]
    assert first.items() < finished(work).items()


def test_a_child_whose_parent_was_gone_before_it_began_does_nothing() -> None:
    """As one that was killed between the start of the child and its asking to be told of that."""
    command = [sys.executable, "-P", "-m", "recipes.worker", "-1"]
    done = subprocess.run(command, input="{}", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "the process that wanted this is gone\n")


def death(code: int, said: str, tmp_path: Path) -> Exception:
    (tmp_path / "weights").write_bytes(b"1234")
    with tempfile.TemporaryFile() as log:
        log.write(said.encode())
        return _death(code, log, Task("llmcompressor", {}, tmp_path, tmp_path, ("weights",)))


def test_a_child_that_ends_without_a_word(tmp_path: Path) -> None:
    died = death(-signal.SIGSEGV, "fine\nFatal Python error: \x1b[31mno\x00\n\n", tmp_path)
    assert isinstance(died, ModelError)
    assert "code -11" in str(died) and "Fatal Python error" in str(died)
    assert not re.search(r"[\x00\x1b]", str(died))
    said = "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc\n"
    assert isinstance(death(-signal.SIGABRT, said, tmp_path), SpaceError)
