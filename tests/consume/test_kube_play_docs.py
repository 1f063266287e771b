"""What `docs/consume` shows: every command on its pages runs, and what it says of versions is what the code says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from containers.manifests.options import Mode
from containers.manifests.runtimes import RUNTIMES
from tests.parts.command import PACKER, ROOT, release, run
from tests.parts.servers import Server
from tests.parts.tiny import GOOD, write_folder

PAGES = sorted((ROOT / "docs/consume").glob("*.md"))
EXAMPLE = "registry.example.com/models"
CONFIG = b'{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 512}'


@pytest.fixture(scope="module")
def repository(registry: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where the model of the pages is: a tiny one, under its name."""
    folder = write_folder(tmp_path_factory.mktemp("docs"), {"model.safetensors": GOOD, "config.json": CONFIG})
    release(folder, "--to", f"{registry.address}/docs/smollm2:v1")
    return f"{registry.address}/docs"


def commands(page: Path) -> str:
    """The shell commands of a page, in order."""
    return "".join(re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_run(page: Path, repository: str, tmp_path: Path) -> None:
    script = commands(page).replace(EXAMPLE, repository)
    assert "packer manifests" in script
    kubectl = tmp_path / "bin/kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tests.parts.kubectl "$@"\n')
    kubectl.chmod(0o755)
    path = f"{kubectl.parent}:{PACKER.parent}:/usr/bin:/bin"
    run(
        "bash", "-euo", "pipefail", "-c", script, cwd=tmp_path, env={"PATH": path, "APPLIED": str(tmp_path / "applied")}
    )


def test_each_mode_has_a_page() -> None:
    assert {page.stem for page in PAGES} == {mode.value for mode in Mode} | {"README"}
    index = (ROOT / "docs/consume/README.md").read_text()
    for mode in Mode:
        assert f"[{mode.value}]({mode.value}.md)" in index
        assert f"--mode {mode.value}" in commands(ROOT / f"docs/consume/{mode.value}.md")


def test_images_in_the_index_are_those_of_the_table() -> None:
    index = (ROOT / "docs/consume/README.md").read_text()
    for runtime in RUNTIMES.values():
        assert runtime.image.rpartition(":")[2] in index
        assert runtime.cpu_image.rpartition(":")[2] in index
