"""The workflow that others call, as docs/ci-github.md shows it, with all that a runner does.

packer is installed from the commit of the workflow, and a whole model is quantized, measured and published.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.parts.act import OUR_ACTION, Repository, export
from tests.parts.command import packer
from tests.parts.forge import PAGE, block
from tests.parts.servers import docker_registry


def test_a_whole_model_from_a_caller_to_its_deployment(tmp_path: Path, safetensors_model: Path) -> None:
    repository, checkout = Repository.at(tmp_path / "act"), export(tmp_path / "packer")
    owner, _, commit = OUR_ACTION.partition("@")
    file = yaml.safe_load(block("# Builds in GitHub Actions"))
    text = block("## The workflow that others call").replace("OWNER/packer", owner).replace("COMMIT", commit)
    assert "OWNER" in PAGE
    workflow = yaml.safe_load(text.replace("\non:", "\n'on':"))
    workflow["jobs"]["model"]["with"]["registry"] = ""
    (repository.root / ".github/workflows").mkdir(parents=True)
    (repository.root / ".github/workflows/models.yml").write_text(yaml.safe_dump(workflow))
    with docker_registry(tmp_path / "registry") as server:
        file["source"], file["publish"]["to"] = str(safetensors_model), f"{server.address}/acme/smollm2"
        (repository.root / "packer.yaml").write_text(yaml.safe_dump(file))
        repository.commit()
        env = {"PACKER_CACHE": str(tmp_path / "cache"), "PACKER_AT": str(checkout)}
        ran = repository.act("workflow_dispatch", env=env, action=checkout)
        assert set(ran.results().values()) == {"success"}, ran.said
        reference = f"{server.address}/acme/smollm2:fp8"
        card = json.loads(packer("scorecard", reference, "--json").stdout)
        digest = json.loads(packer("inspect", reference, "--json").stdout)["digest"]
    assert card["verdict"] == "retained"
    outputs = ran.outputs("build")
    assert (outputs["verdict"], outputs["changed"]) == ("retained", "true")
    assert ran.log("0") == f"deploy {reference} at {digest}\n"
    assert "**Retained: perplexity keeps " in ran.summary()
    assert len(ran.attested) == 2
