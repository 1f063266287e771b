"""What `packer ci github` writes, and packer's own action, run by act: a real model to a real registry."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from containers.ci.github import ATTEST, Workflow
from containers.ci.github import workflow as workflow_of
from tests.parts.act import OUR_ACTION, Ran, Repository
from tests.parts.command import ROOT, packer, run
from tests.parts.servers import Server, docker_registry
from tests.parts.small import cut_short

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


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_short(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Forge]:
    folder = tmp_path_factory.mktemp("forge")
    repository = Repository.at(folder / "act")
    with docker_registry(folder / "registry") as server:
        write_build_file(repository.root, model, server.address)
        written = packer("ci", "github", "packer.yaml", "--action", OUR_ACTION, "--installed", cwd=repository.root)
        assert written.stdout == ".github/workflows/smollm2.yml\n"
        repository.commit()
        yield Forge(repository, server, {"PACKER_CACHE": str(folder / "cache")})


def test_variants_are_built_and_one_that_lost_fails_its_job(forge: Forge) -> None:
    """The outputs, the summary, what is attested; then the refusal; then nothing new, and no attestation."""
    ran = forge.act("repository_dispatch", "--matrix", "variant:plain", "--matrix", "variant:fp8")
    assert ran.results() == {"plain": "success", "fp8": "success"}, ran.said
    name = f"{forge.registry.address}/acme/smollm2"
    attested = []
    for variant in ("plain", "fp8"):
        outputs, page = ran.outputs("build", variant), ran.summary(variant)
        there = [
            json.loads(packer("inspect", f"{name}:{tag}", "--json").stdout)["digest"]
            for tag in (variant, f"{variant}-modelpack")
        ]
        assert [outputs["digest"], outputs["modelpack-digest"]] == there
        assert (outputs["reference"], outputs["name"]) == (f"{name}:{variant}", name)
        assert (outputs["modelpack-reference"], outputs["changed"]) == (f"{name}:{variant}-modelpack", "true")
        assert page.startswith(f"## `{name}:{variant}`\n")
        assert there[0] in page
        attested += [f"{name}@{digest} true" for digest in there]
    assert list(ran.attested) == attested
    assert (ran.outputs("build", "plain")["verdict"], ran.outputs("build", "plain")["retention"]) == ("", "")
    fp8 = ran.outputs("build", "fp8")
    card = json.loads(packer("scorecard", fp8["reference"], "--json").stdout)
    assert (fp8["verdict"], card["verdict"]) == ("retained", "retained")
    assert fp8["retention"] == f"{card['metrics'][0]['retention']['estimate']:.4f}"
    page = ran.summary("fp8")
    assert "**Retained: perplexity keeps " in page
    assert "  perplexity  " in page
    assert "\ufffd" not in page
    kept = forge.repository.kept("smollm2-fp8")
    merge = PAGE.partition("```sh\ngh run download RUN\n")[2].partition("```")[0] + "cat packer.lock"
    assert kept.keys() == {"fp8/report.html", "fp8/scorecard.json", "result.json", "packer.lock"}
    assert json.loads(kept["packer.lock"])["builds"].keys() == {"fp8"}
    assert forge.repository.kept("smollm2-plain").keys() == {"result.json", "packer.lock"}
    locks = run("bash", "-euc", merge, cwd=forge.repository.folder / "uploaded").stdout
    assert json.loads(locks)["builds"].keys() == {"plain", "fp8"}
    assert forge.tags() == {"plain", "plain-modelpack", "fp8", "fp8-modelpack"}

    before = forge.stored()
    refused = forge.act("schedule", "--matrix", "variant:lost")
    assert refused.results() == {"lost": "failure"}
    outputs, page = refused.outputs("build", "lost"), refused.summary("lost")
    assert (outputs["verdict"], outputs["digest"], outputs["reference"]) == ("lost", "", "")
    assert 0.5 < float(outputs["retention"]) < 0.9999
    assert page.startswith("## Refused: lost, lost\n\n**Lost: perplexity keeps ")
    assert "  perplexity  " in page
    assert "exit status 4" in refused.said
    assert refused.attested == []
    kept = forge.repository.kept("smollm2-lost")
    assert kept.keys() == {"lost/report.html", "lost/scorecard.json", "result.json"}
    assert "<html" in kept["lost/report.html"]
    assert before
    assert forge.stored() == before

    again = forge.act("workflow_dispatch", "--matrix", "variant:plain", "--input", "attest=false")
    assert again.results() == {"plain": "success"}
    assert again.outputs("build", "plain")["changed"] == "false"
    assert "| changed | no" in again.summary("plain")
    assert again.attested == []

    (forge.repository.root / "packer.lock").write_text(locks)
    forge.repository.commit()
    idle = forge.act("schedule", "--matrix", "variant:plain")
    assert idle.results() == {"plain": "success"}, idle.said
    assert (idle.outputs("build", "plain")["changed"], idle.outputs("build", "plain")["digest"]) == ("false", "")
    assert idle.summary("plain").startswith("## Up to date\n")
    assert (idle.log("build", "build", variant="plain"), idle.attested) == ("", [])
    assert forge.repository.kept("smollm2-plain") == {}
    packer("tag", f"{name}:fp8", "plain")
    moved = forge.act("schedule", "--matrix", "variant:plain")
    assert moved.results() == {"plain": "success"}, moved.said
    assert moved.outputs("build", "plain")["changed"] == "true"
    assert len(moved.attested) == 2


def test_a_disk_that_is_too_full_is_told_before_anything_is_fetched(forge: Forge, tmp_path: Path) -> None:
    before = forge.stored()
    run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path)
    try:
        env = {"PACKER_CACHE": str(tmp_path)}
        ran = forge.repository.act("push", "--matrix", "variant:fp8", env=env)
    finally:
        run("umount", tmp_path)
    assert ran.results() == {"fp8": "failure"}
    assert "exit status 6" in ran.said
    assert "error: " in ran.log("build", "room", variant="fp8")
    assert ran.log("build", "build", variant="fp8") == ""
    page = ran.summary("fp8")
    assert page.startswith("## Failed\n")
    assert "the disk is too full" in page
    assert "bytes free" in page
    assert forge.stored() == before


def test_the_action_of_the_page_logs_in_and_hands_on_what_it_published(tmp_path: Path, model: Path) -> None:
    (tmp_path / "htpasswd").write_text("tester:$2b$05$dsHFsFvTBwUgOgoe6JJ/6e8JE2463JkQRChlW5n74at9X.DdjWU6q\n")
    auth = f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/htpasswd}}}}"
    repository = Repository.at(tmp_path / "act")
    with docker_registry(tmp_path / "registry", auth) as server:
        write_build_file(repository.root, model, server.address)
        workflow = yaml.safe_load(block("## The action").replace(PLACE, OUR_ACTION).replace("\non:", "\n'on':"))
        login = {"registry": server.address, "username": "tester", "password": "${{ secrets.PASSWORD }}"}
        steps = workflow["jobs"]["model"]["steps"]
        steps[1]["with"] |= {**login, "install": "false"}
        generated = workflow_of(Workflow("a", "packer.yaml", "x", OUR_ACTION))["jobs"]["build"]["steps"]
        attest = json.dumps(next(step for step in generated if step.get("uses") == ATTEST))
        steps.append({**json.loads(attest.replace("steps.build.", "steps.model.")), "if": True})
        (repository.root / ".github/workflows").mkdir(parents=True)
        (repository.root / ".github/workflows/model.yml").write_text(yaml.safe_dump(workflow))
        repository.commit()
        env = {"PACKER_CACHE": str(tmp_path / "cache"), "PASSWORD": "correct horse"}
        ran = repository.act("workflow_dispatch", "--secret", "PASSWORD", env=env)
        assert ran.results() == {"": "success"}, ran.said
        outputs = ran.outputs("model")
        assert ran.log("2") == f"deploy {outputs['reference']} at {outputs['digest']}\n"
        assert "correct horse" not in ran.said
        assert list(ran.attested) == [f"{outputs['name']}@{outputs['digest']} true with a login"]
        assert not (repository.folder / "home/.docker").exists()


@pytest.mark.parametrize(
    ("given", "logins"),
    [
        ({}, ["login ghcr.io -u nektos/act --password-stdin < the token of the job"]),
        ({"username": "tester", "password": "mine"}, ["login ghcr.io -u tester --password-stdin < mine"]),
        ({"registry": "registry.example.com"}, []),
        ({"registry": "registry.example.com", "username": "tester", "password": "${{ secrets.MISSPELT }}"}, []),
    ],
)
def test_the_token_of_the_job_goes_to_ghcr_alone(given: dict[str, str], logins: list[str], tmp_path: Path) -> None:
    """With a double of packer, which writes its logins down and fails: there is no ghcr.io here."""
    double, said = tmp_path / "bin/packer", tmp_path / "said"
    double.parent.mkdir()
    double.write_text(f'#!/bin/bash\n[ "$1" != login ] || echo "$* < $(cat)" >> {said}\nexit 5\n')
    double.chmod(0o755)
    repository = Repository.at(tmp_path / "act")
    step = {"uses": OUR_ACTION, "with": {"install": "false", **given}}
    workflow = {"on": {"workflow_dispatch": {}}, "jobs": {"model": {"runs-on": "ubuntu-latest", "steps": [step]}}}
    (repository.root / ".github/workflows").mkdir(parents=True)
    (repository.root / ".github/workflows/model.yml").write_text(json.dumps(workflow))
    repository.commit()
    env = {"PATH": f"{double.parent}:{os.environ['PATH']}", "GITHUB_TOKEN": "the token of the job"}
    ran = repository.act("workflow_dispatch", "--secret", "GITHUB_TOKEN", env=env)
    assert ran.results() == {"": "failure"}
    assert (said.read_text().splitlines() if said.exists() else []) == logins


def test_every_command_of_the_page(tmp_path: Path, model: Path, registry: Server) -> None:
    """As they stand, in a folder with the page's build file."""
    write_build_file(tmp_path, model, f"{registry.address}/page")
    commands = [shlex.split(line) for line in PAGE.splitlines() if line.startswith("    packer ")]
    assert len(commands) == 6
    for command in commands:
        packer(*(OUR_ACTION if word == PLACE else word for word in command[1:]), cwd=tmp_path)
    workflows = {path.name for path in (tmp_path / ".github/workflows").iterdir()}
    assert workflows == {"smollm2.yml", "fp8.yml"}
    result = json.loads((tmp_path / "result.json").read_text())
    assert f"IMAGE_DIGEST={result['image'].rpartition('@')[2]}\n" in (tmp_path / "outputs").read_text()
