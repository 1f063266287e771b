"""docs/ci-github.md as a repository: its build file, with a small model, the workflow for it, and its registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.parts.act import OUR_ACTION, Ran, Repository
from tests.parts.command import ROOT, packer
from tests.parts.servers import Server, docker_registry

PAGE = (ROOT / "docs/ci-github.md").read_text()
PLACE = "OWNER/packer@COMMIT"


def block(after: str) -> str:
    """The first YAML below a heading of the page."""
    return PAGE.partition(after)[2].partition("```yaml\n")[2].partition("```")[0]


def write_build_file(folder: Path, model: Path, registry: str) -> None:
    """The page's, with a small model, a short suite and another registry, and a variant that loses too much."""
    from recipes.evaluation.suite import find_suite

    data = find_suite("fidelity", Path()).data
    suite = {"name": "short", "description": "short passages", "kind": "fidelity", "passages": 64, "window": 32}
    (folder / "short.yaml").write_text(json.dumps({**suite, "data": str(data)}))
    file = yaml.safe_load(block("# Builds in GitHub Actions"))
    file["source"], file["publish"]["to"] = str(model), f"{registry}/acme/smollm2"
    file["variants"][1]["evaluate"] = {"suite": "./short.yaml", "retain": 0.8}
    file["variants"].append(
        {**file["variants"][1], "name": "lost", "evaluate": {"suite": "./short.yaml", "retain": 0.9999}}
    )
    (folder / "packer.yaml").write_text(yaml.safe_dump(file, sort_keys=False))


@dataclass(frozen=True)
class Forge:
    """A repository with the workflow, the registry that it publishes to, and the cache of its runner."""

    repository: Repository
    registry: Server
    env: dict[str, str]

    def act(self, event: str, *arguments: str) -> Ran:
        return self.repository.act(event, *arguments, env=self.env)

    def stored(self) -> list[Path]:
        return sorted(self.registry.log.with_name("data").rglob("*"))

    def tags(self) -> set[str]:
        """Those of models: what docker-registry keeps of referrers has tags too."""
        found = packer("tags", f"{self.registry.address}/acme/smollm2").stdout.split()
        return {tag for tag in found if not tag.startswith("sha256-")}


@contextmanager
def forged(folder: Path, model: Path) -> Iterator[Forge]:
    """A repository with the workflow that is written for the build file, in a folder."""
    repository = Repository.at(folder / "act")
    with docker_registry(folder / "registry") as server:
        write_build_file(repository.root, model, server.address)
        written = packer("ci", "github", "packer.yaml", "--action", OUR_ACTION, "--installed", cwd=repository.root)
        assert written.stdout == ".github/workflows/smollm2.yml\n"
        repository.commit()
        yield Forge(repository, server, {"PACKER_CACHE": str(folder / "cache")})
