"""Bad days: pushes and pulls through a proxy that resets, stalls, cuts, delays, refuses and lies, by a seed.

Each ends soon, well or with exit code 5; whatever it leaves is whole, and the next one goes on from there. `make test`
does a few of 8 MiB, `make faults` 200 of 64 MiB each.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from registry.access import Access
from registry.errors import TransferError
from registry.retry import Retry
from registry.wire import Limits, Wire
from tests.faults.model import Model, contents, problems, pull, tagged, use_parts
from tests.parts.faults import KINDS, Faults, fault_proxy
from tests.parts.servers import docker_registry
from tests.parts.strict import StrictRegistry, strict_registry

AT_LENGTH = int(os.environ.get("PACKER_FAULTS", "0"))
COUNT = AT_LENGTH or 20
SIZE = (64 if AT_LENGTH else 8) << 20
LANES = 8 if AT_LENGTH else 5
"""Attempts at the same time: most of one is waiting."""

SECONDS = 120
"""In which an attempt must have ended, on a machine that does other things too."""

LIES = tuple(kind for kind in KINDS if kind.startswith("range"))
NOT_LIES = tuple(kind for kind in KINDS if not kind.startswith("range"))


def access() -> Access:
    """Quick, so that a stall is over soon."""
    return Access(wire=Wire(limits=Limits(connect=2, silence=2)), retry=Retry(6, 0.05, 0.3, 20))


@dataclass(frozen=True)
class Target:
    """A registry, and how it is looked at behind the proxy's back."""

    address: str
    problems: Callable[[str], list[str]]
    tagged: Callable[[str], bytes]
    forget: Callable[[str], None]


@contextlib.contextmanager
def real(folder: Path) -> Iterator[Target]:
    with docker_registry(folder, http="relativeurls: true") as server:
        place = folder / "data/docker/registry/v2/repositories"
        yield Target(
            server.address,
            lambda name: problems(server.address, name),
            lambda name: tagged(server.address, name),
            lambda name: shutil.rmtree(place / name, ignore_errors=True),
        )


@contextlib.contextmanager
def strict(_: Path) -> Iterator[Target]:
    with strict_registry() as registry:

        def stored(name: str) -> bytes:
            digest = registry.tags(name).get("v1")
            return registry.repository(name).manifests[digest].data if digest else b""

        yield Target(registry.address, lambda _: registry.problems(), stored, lambda name: forgotten(registry, name))


def forgotten(registry: StrictRegistry, name: str) -> None:
    """Give the memory of a repository back."""
    registry.repositories.pop(name, None)
    for key, upload in list(registry.uploads.items()):
        if upload.repository == name:
            registry.uploads.pop(key, None)


REGISTRIES = {"docker-registry": real, "strict": strict}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    made = Model.made(tmp_path_factory.mktemp("model") / "layers", SIZE)
    assert made.manifest
    assert made.files
    return made


@pytest.fixture(autouse=True)
def parts(model: Model) -> Iterator[None]:
    from registry.download import PART_SIZE

    use_parts(model.part)
    yield
    use_parts(PART_SIZE)


def bad_day(seed: int, most: float) -> Faults:
    """Faults in up to so many of the requests; a lie about a range is rarer than an accident, as it is final."""
    kinds = (*NOT_LIES, *NOT_LIES, *LIES)
    return Faults(seed, Random(seed).uniform(0.02, most), kinds, stall=3, delay=0.2, retry_after=1)


def ended(attempt: Callable[[], None]) -> str:
    """How an attempt ended: empty if well, else what was said. Anything but exit code 5, and no end, fails the test."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            attempt()
        except BaseException as error:  # noqa: BLE001 - it is looked at below
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            raise AssertionError(f"no end after {SECONDS} s\n{file.read()}")
    (error,) = outcome
    if error is None:
        return ""
    if not isinstance(error, TransferError):
        raise error
    assert error.exit_code == 5
    return re.sub(r"127[.:0-9]+\S*", "...", error.what)


@dataclass(frozen=True)
class Told:
    """What became of one attempt."""

    said: str
    faults: int


def told(what: str, results: list[Told], began: float) -> None:
    """Say what came of all, and see that it means something: most ended well, though faults came."""
    well, faults = sum(not one.said for one in results), sum(one.faults for one in results)
    failures = dict(Counter(one.said for one in results if one.said))
    print(
        f"\n{what}: {well} of {len(results)} of {SIZE >> 20} MiB ended well, {faults} faults, "
        f"{time.monotonic() - began:.0f} s; {failures}"
    )
    assert well > len(results) / 2
    assert faults > len(results)


def pushed(seed: int, model: Model, target: Target) -> Told:
    """A push, and what the registry has afterwards; then another one, on a better day, if it failed."""
    name = f"pushed/m{seed}"
    faults = bad_day(seed, 0.25)
    with fault_proxy(target.address, faults) as address:
        said = ended(lambda: model.push(address, name, access()))
    assert target.problems(name) == [], (seed, said)
    found = target.tagged(name)
    assert found in (b"", model.index.raw)
    assert said or found, seed
    if said:
        model.push(target.address, name, access())
        assert target.tagged(name) == model.index.raw
        assert target.problems(name) == []
    target.forget(name)
    return Told(said, len(faults.done))


def pulled(seed: int, model: Model, target: Target, folder: Path) -> Told:
    """A pull, and what the folder has afterwards; then another one, on a better day, if it failed."""
    faults = bad_day(seed, 0.08)
    with fault_proxy(target.address, faults) as address:
        said = ended(lambda: pull(address, "pulled/model", folder, access()))
    if said:
        assert contents(folder) == {}, (seed, said)
        pull(target.address, "pulled/model", folder, access())
    assert model.is_in(folder), seed
    shutil.rmtree(folder)
    return Told(said, len(faults.done))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", REGISTRIES)
def test_pushes(kind: str, model: Model, tmp_path: Path) -> None:
    began = time.monotonic()
    with REGISTRIES[kind](tmp_path / "registry") as target, ThreadPoolExecutor(LANES) as lanes:
        results = list(lanes.map(lambda seed: pushed(seed, model, target), range(COUNT)))
    told(f"pushes to {kind}", results, began)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", REGISTRIES)
def test_pulls(kind: str, model: Model, tmp_path: Path) -> None:
    began = time.monotonic()
    with REGISTRIES[kind](tmp_path / "registry") as target, ThreadPoolExecutor(LANES) as lanes:
        model.push(target.address, "pulled/model", access())
        run = lanes.map(lambda seed: pulled(seed, model, target, tmp_path / f"{seed}"), range(1000, 1000 + COUNT))
        results = list(run)
    told(f"pulls from {kind}", results, began)
