"""The real parts that the tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts import models
from tests.parts.command import ROOT
from tests.parts.podman import Podman
from tests.parts.servers import Server, docker_registry


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
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """podman with storage of its own."""
    podman = Podman(tmp_path_factory.mktemp("podman"))
    try:
        yield podman
    finally:
        podman.clean()


@pytest.fixture(scope="session")
def clients() -> Path:
    """The folder with a virtual environment for each foreign client, which `make components` fills."""
    return ROOT / ".cache/clients"
