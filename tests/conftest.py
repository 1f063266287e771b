"""The real parts that the tests stand on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import models
from tests.parts.command import ROOT
from tests.parts.podman import Podman, housed
from tests.parts.servers import Server, docker_registry

WORKERS = 4
"""Processes at most: each takes up to 2 GB of memory."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The processes that `--numprocesses=auto` means: one for each processor that we may use."""
    return min(len(os.sched_getaffinity(0)), WORKERS)


def pytest_configure() -> None:
    """Of several processes that test side by side, each computes with its share of the processors.

    It is said before anything loads OpenMP, whose threads wait for each other by turning in a circle: where two
    processes have more threads than there are processors, that takes most of the time.
    """
    if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(len(os.sched_getaffinity(0)) // int(workers), 1)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for this run: nothing is taken from the user's or from another process's, and nothing put there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PACKER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An empty registry for the whole run; each test takes a repository of its own."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as server:
        yield server


@pytest.fixture(scope="session")
def gguf_model() -> Path:
    """SmolLM2 as GGUF."""
    return models.gguf()


@pytest.fixture(scope="session")
def safetensors_model() -> Path:
    """SmolLM2 as safetensors."""
    return models.safetensors()


@pytest.fixture(scope="session")
def podman() -> Iterator[Podman]:
    """podman with storage of its own."""
    with housed(Podman, "podman-") as podman:
        yield podman


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder with a virtual environment for each foreign client, which `make components` fills."""
    return ROOT / ".cache/clients"
