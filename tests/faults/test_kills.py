"""kill -9 at random moments of pushes and pulls; others follow, killed too, until one is done.

`make test` kills 5 times each, `make faults` 50 times.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from registry.access import Access
from tests.faults.model import WORKERS, Model, contents, problems, tagged
from tests.parts.command import ROOT
from tests.parts.faults import Faults, fault_proxy
from tests.parts.servers import docker_registry
from tests.parts.strict import StrictRegistry, strict_registry

KILLS = 50 if os.environ.get("PACKER_FAULTS") else 5
IN_A_ROW = 4
"""Kills of one transfer at most, before it may end."""

LANES = 3
"""Transfers at the same time."""

SIZE = 48 << 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    made = Model.made(tmp_path_factory.mktemp("model") / "layers", SIZE)
    assert made.manifest
    return made


def far_away(address: str) -> contextlib.AbstractContextManager[str]:
    """A way to a registry that takes its time, so that kills come amid a transfer; the address where it begins."""
    return fault_proxy(address, Faults(0, 1, ("delay",), delay=0.05))


@dataclass(frozen=True)
class Mover:
    """Starts processes that move the model, and kills them; `longest` are the seconds that one takes, if it may."""

    action: str
    host: str
    longest: float = 0.0

    def measured(self, repository: str, folder: Path, state: Path) -> Mover:
        """The same, after one transfer whose time was taken."""
        return replace(self, longest=self.last(repository, folder, state))

    def until_done(self, number: int, place: tuple[str, Path, Path], check: Callable[[], None]) -> int:
        """Kill some, the last not; `check` looks at what each kill leaves. Returns how many were killed in time."""
        random = Random(number)
        moments = [random.uniform(0, self.longest) for _ in range(random.randint(1, IN_A_ROW))]
        hits = sum(self._killed(moment, place, check) for moment in moments)
        self.last(*place)
        return hits

    def last(self, repository: str, folder: Path, state: Path) -> float:
        """One that nobody kills; returns the seconds that it took."""
        process, began = self._begun(repository, folder, state), time.monotonic()
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        return time.monotonic() - began

    def _killed(self, moment: float, place: tuple[str, Path, Path], check: Callable[[], None]) -> bool:
        process = self._begun(*place)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        check()
        return process.returncode == -signal.SIGKILL

    def _begun(self, repository: str, folder: Path, state: Path) -> subprocess.Popen[bytes]:
        words = [self.action, self.host, repository, str(folder), str(state), str(SIZE)]
        command = [sys.executable, "-m", "tests.faults.mover", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
        assert process.stdout
        assert process.stdout.readline() == b"begun\n"
        return process


def killed(one: Callable[[int], int]) -> int:
    """Do `one`, which returns its kills, with one number after another until there were kills enough: how many."""
    kills, first = 0, 0
    with ThreadPoolExecutor(LANES) as lanes:
        while kills < KILLS:
            assert first < 4 * KILLS, "nearly all were too late"
            kills += sum(lanes.map(one, range(first, first + LANES)))
            first += LANES
    return kills


@pytest.mark.timeout(900)
def test_killed_pushes_send_no_more_than_a_chunk_of_each_open_blob_twice(model: Model, tmp_path: Path) -> None:
    total = sum(blob.descriptor.size for blob in model.blobs)
    again, amid = list[int](), list[int]()
    with strict_registry() as registry, far_away(registry.address) as slow:
        mover = Mover("push", slow).measured("first/m", model.folder, tmp_path / "state.db")

        def one(number: int) -> int:
            name, marks = f"killed/m{number}", list[int]()

            def check() -> None:
                assert registry.problems() == []
                marks.append(sent(registry, name))

            # a memory of its own: otherwise all is mounted from where it is already
            hits = mover.until_done(number, (name, model.folder, tmp_path / f"{number}.db"), check)
            again.append(sent(registry, name) - total)
            assert again[-1] <= hits * WORKERS * model.chunk, (number, hits)
            assert registry.tags(name) == {"v1": model.index.descriptor.digest}
            assert registry.problems() == []
            amid.extend(mark for mark in marks if 0 < mark < total)
            registry.repositories.pop(name)
            return hits

        kills = killed(one)
    assert len(amid) >= kills / 4
    print(f"\n{kills} kills of pushes, {len(amid)} with some bytes sent and some not: {sum(again)} were sent twice")


def sent(registry: StrictRegistry, name: str) -> int:
    """The bytes of blobs that came into a repository; whoever was killed a moment ago has sent its last."""
    while any(one.lock.locked() for one in list(registry.uploads.values()) if one.repository == name):
        time.sleep(0.001)
    return sum(one.received for one in list(registry.requests) if one.path.startswith(f"/v2/{name}/blobs/uploads/"))


@pytest.mark.timeout(900)
def test_killed_pushes_to_a_registry_that_forgets_what_broke(model: Model, tmp_path: Path) -> None:
    with (
        docker_registry(tmp_path / "registry", http="relativeurls: true") as server,
        far_away(server.address) as slow,
    ):
        mover = Mover("push", slow).measured("first/m", model.folder, tmp_path / "state.db")

        def one(number: int) -> int:
            name = f"killed/m{number}"

            def check() -> None:
                assert problems(server.address, name) == []

            hits = mover.until_done(number, (name, model.folder, tmp_path / f"{number}.db"), check)
            assert tagged(server.address, name) == model.index.raw
            check()
            return hits

        print(f"\n{killed(one)} kills of pushes to docker-registry")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["strict", "docker-registry"])
def test_killed_pulls(kind: str, model: Model, tmp_path: Path) -> None:
    """What has a final name is whole, at any moment."""
    real = docker_registry(tmp_path / "registry", http="relativeurls: true")
    with strict_registry() if kind == "strict" else real as registry, far_away(registry.address) as slow:
        model.push(registry.address, "a/b", Access())
        mover = Mover("pull", slow).measured("a/b", tmp_path / "first", tmp_path / "state.db")

        def one(number: int) -> int:
            folder = tmp_path / f"{number}"

            def check() -> None:
                assert contents(folder).items() <= model.files.items()

            hits = mover.until_done(number, ("a/b", folder, tmp_path / "state.db"), check)
            assert model.is_in(folder)
            shutil.rmtree(folder)
            return hits

        print(f"\n{killed(one)} kills of pulls from {kind}")
