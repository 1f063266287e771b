"""The workflow that `packer ci github` writes, event after event, with a variant that is refused: `make test-slow`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.parts.command import packer, run
from tests.parts.forge import PAGE, Forge, forged
from tests.parts.small import cut_short


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    folder: Path = tmp_path_factory.mktemp("forge")
    with forged(folder, cut_short(folder / "model")) as found:
        yield found


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
