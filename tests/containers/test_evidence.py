"""The evidence of an evaluation travels with what was measured; without any, nothing changes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from containers.artifact import package
from containers.base import no_base
from containers.modelpack import ModelPack
from packer.evidence import evidence_of
from recipes.evaluation.scorecard import Gate, Interval, Undecided, Verdict
from registry.descriptor import digest_of
from registry.errors import ModelError
from registry.manifest import Graph, Manifest
from tests.packer.test_build import GOLDEN
from tests.parts import tiny
from tests.parts.scorecards import PERPLEXITY, REPORT, artifact, checkpoint, identity_of, scorecard

STATEMENT = "application/vnd.in-toto+json"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", {**tiny.SHARDED, "README.md": b"# Tiny"})


def documents(graph: Graph) -> list[bytes]:
    """The content of the layers of a referrer, each checked against its descriptor."""
    by_digest = {blob.descriptor.digest: blob.open().read() for blob in graph.blobs}
    assert all(digest_of(data) == digest for digest, data in by_digest.items())
    assert isinstance(graph.root, Manifest)
    assert json.loads(by_digest[graph.root.config.digest]) == {}
    return [by_digest[layer.digest] for layer in graph.root.layers]


def statement(graph: Graph) -> dict[str, Any]:
    return dict(json.loads(documents(graph)[0]))


def test_without_evidence_nothing_changes(tmp_path: Path) -> None:
    made = package(checkpoint(tiny.write_folder(tmp_path, tiny.SHARDED)), no_base(), ModelPack.SHARED)
    assert made.modelpack
    assert [made.image.root.descriptor.digest, made.modelpack.root.descriptor.digest] == GOLDEN
    assert made.referrers == ()


def test_every_manifest_has_the_numbers_and_a_referrer(model: Path) -> None:
    made = artifact(model)
    assert made.modelpack
    roots = [made.image.root, *(child.root for child in made.image.children), made.modelpack.root]
    headline = {
        "packer.retention": "0.9848",
        "packer.retention.low": "0.9812",  # never rounded up
        "packer.suite": "fidelity",
        "packer.baseline": digest_of(b"baseline"),
        "packer.recipe": "int8-w8a8",
        "packer.verdict": "retained",
    }
    assert len(roots) == 4
    for root, referrer in zip(roots, made.referrers, strict=True):
        assert headline.items() <= root.annotations.items()
        document = json.loads(referrer.root.raw)
        assert document["artifactType"] == STATEMENT
        assert document["config"]["mediaType"] == "application/vnd.oci.empty.v1+json"
        about = {"mediaType": root.media_type, "digest": root.descriptor.digest, "size": len(root.raw)}
        assert document["subject"] == about
        assert document["annotations"] == {
            **headline,
            "org.opencontainers.image.created": "2026-03-01T12:00:00Z",
            "in-toto.io/predicate-type": PREDICATE,
        }
        kinds = [(layer["mediaType"], layer["annotations"]) for layer in document["layers"]]
        title = "org.opencontainers.image.title"
        assert kinds == [
            (STATEMENT, {title: "statement.json", "in-toto.io/predicate-type": PREDICATE}),
            ("application/vnd.packer.scorecard.v1+json", {title: "scorecard.json"}),
            ("text/html", {title: "report.html"}),
        ]
        assert documents(referrer)[2].decode() == REPORT
    assert json.loads(documents(made.referrers[0])[1]) == json.loads(
        json.dumps(scorecard(identity_of(checkpoint(model))).to_json())
    )
    assert len({blob.descriptor.digest for blob in made.blobs()}) == len(list(made.blobs()))


def test_statements_name_what_clusters_pin(model: Path) -> None:
    made = artifact(model)
    assert made.modelpack
    digests = [graph.root.descriptor.digest for graph in (made.image, *made.image.children)]
    names = ["image index", "image linux/amd64", "image linux/arm64"]
    subject = [{"name": name, "digest": {"sha256": digest[7:]}} for name, digest in zip(names, digests, strict=True)]
    for referrer in made.referrers[:3]:
        assert statement(referrer)["subject"] == subject
    modelpack = made.modelpack.root.descriptor.digest
    assert statement(made.referrers[3])["subject"] == [
        {"name": "modelpack manifest", "digest": {"sha256": modelpack[7:]}}
    ]


def test_the_predicate_is_a_test_result(model: Path) -> None:
    said = statement(artifact(model).referrers[0])
    assert (said["_type"], said["predicateType"]) == ("https://in-toto.io/Statement/v1", PREDICATE)
    predicate = said["predicate"]
    assert predicate["result"] == "PASSED"
    assert [predicate[key] for key in ("passedTests", "warnedTests", "failedTests")] == [["perplexity"], [], []]
    parts = {entry["annotations"]["part"]: entry for entry in predicate["configuration"]}
    assert {part: "sha256:" + entry["digest"]["sha256"] for part, entry in parts.items()} == {
        "suite": digest_of(b"suite"),
        "data": digest_of(b"data"),
        "candidate": identity_of(checkpoint(model)),
        "baseline": digest_of(b"baseline"),
    }
    assert (parts["baseline"]["uri"], parts["baseline"]["name"]) == ("hf://acme/tiny", "tiny")


def test_what_is_undecided_and_accepted_warns(model: Path) -> None:
    doubt = replace(PERPLEXITY, verdict=Verdict.UNDECIDED, retention=Interval(0.97, 0.98, 0.99))
    gate = Gate(retain=0.98, undecided=Undecided.ACCEPT)
    made = artifact(model, verdict=Verdict.UNDECIDED, gate=gate, metrics=(doubt,))
    predicate = statement(made.referrers[0])["predicate"]
    assert (predicate["result"], predicate["warnedTests"]) == ("WARNED", ["perplexity"])
    assert made.image.root.annotations["packer.verdict"] == "undecided"


def test_the_same_values_give_the_same_bytes(model: Path) -> None:
    one, other = artifact(model), artifact(model)
    assert [graph.root for graph in one.referrers] == [graph.root for graph in other.referrers]
    later = artifact(model, circumstances=replace(scorecard().circumstances, time="2026-03-02T12:00:00Z"))
    assert later.image.root == one.image.root
    assert {graph.root.descriptor.digest for graph in later.referrers}.isdisjoint(
        graph.root.descriptor.digest for graph in one.referrers
    )


def test_one_manifest_fewer_is_one_referrer_fewer(model: Path) -> None:
    assert len(artifact(model, ModelPack.NONE).referrers) == 3


def test_a_scorecard_about_another_model_is_refused(model: Path) -> None:
    evidence = evidence_of(scorecard(identity_of(checkpoint(model))), REPORT)
    (model / "README.md").write_text("# The numbers")
    assert package(checkpoint(model), no_base(), ModelPack.NONE, evidence=evidence).referrers
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="another model") as caught:
        package(checkpoint(model), no_base(), ModelPack.NONE, evidence=evidence)
    assert caught.value.expected == evidence.checkpoint


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": Verdict.LOST},
        {"verdict": Verdict.UNDECIDED},
        {"verdict": Verdict.UNDECIDED, "gate": Gate(undecided=Undecided.EXTEND)},
        {"verdict": Verdict.LOST, "gate": Gate(undecided=Undecided.ACCEPT), "metrics": ()},
    ],
)
def test_a_scorecard_that_says_no_is_refused(model: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="may not ship") as caught:
        artifact(model, **changes)
    assert str(caught.value.found).lower().startswith(changes["verdict"].value)
