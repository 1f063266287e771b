"""What `packer check` says of artifacts of every kind is what podman and a modelcar make of them: `make test-slow`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.ground import Ground, by_modelcar, by_podman, disagreements, podman_of_artifacts, prepared
from tests.parts.podman import Podman


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, clients: Path) -> Iterator[Ground]:
    with prepared(tmp_path_factory.mktemp("check"), clients) as found:
        yield found


def test_podman(ground: Ground) -> None:
    names = "car zstd twice no-diff-ids wrong-diff-id raw-layer oci-layers modelpack raw folders untitled half-titled"
    names += " one-name index-windows index-of-artifacts packer packer-raw-modelpack olot oras buildah-docker"
    names += " modelpack-client"
    with podman_of_artifacts(ground) as podman:
        assert disagreements(ground, "podman", by_podman(ground, podman), tuple(names.split())) == {}


def test_kserve_modelcar(ground: Ground, podman: Podman) -> None:
    names = "gzip no-shell entrypoint closed elsewhere modelpack index-windows index-of-both packer"
    names += " packer-none packer-on-theirs olot buildah-docker"
    assert disagreements(ground, "kserve", by_modelcar(ground, podman), tuple(names.split())) == {}
