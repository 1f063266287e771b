"""What `packer ci github` writes, and packer's own action, run by act: a real model to a real registry."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from containers.ci.github import ATTEST, Workflow
from containers.ci.github import workflow as workflow_of
from tests.parts.act import OUR_ACTION, Repository
from tests.parts.command import packer, run
from tests.parts.forge import PAGE, PLACE, Forge, block, forged, write_build_file
from tests.parts.servers import Server, docker_registry
from tests.parts.small import cut_short


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_short(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Forge]:
    with forged(tmp_path_factory.mktemp("forge"), model) as found:
        yield found


def test_a_variant_is_built_and_handed_on(forge: Forge) -> None:
    """What is refused, and what has not changed, is in the slow tests."""
    ran = forge.act("push", "--matrix", "variant:plain")
    assert ran.results() == {"plain": "success"}, ran.said
    name = f"{forge.registry.address}/acme/smollm2"
    outputs = ran.outputs("build", "plain")
    digest = json.loads(packer("inspect", f"{name}:plain", "--json").stdout)["digest"]
    assert (outputs["reference"], outputs["digest"], outputs["changed"]) == (f"{name}:plain", digest, "true")
    assert ran.summary("plain").startswith(f"## `{name}:plain`\n")
    assert [line.partition("@")[0] for line in ran.attested] == [name, name]
    assert forge.repository.kept("smollm2-plain").keys() == {"result.json", "packer.lock"}
    assert forge.tags() == {"plain", "plain-modelpack"}


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
