"""Scorecards that are published: sent, found, copied, compared, shown; and their schema."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from containers.evidence import CREATED, PREDICATE, PREDICATE_TYPE, SCORECARD, STATEMENT, document
from packer.cli import cli
from packer.diff import compare
from packer.diff import render as render_difference
from packer.scorecards import MAX_DOCUMENT, fetch_scorecard, render
from recipes.evaluation.scorecard import Gate, Interval, Scorecard, Undecided, Verdict
from registry.access import Access
from registry.blob import BytesBlob
from registry.descriptor import Descriptor, digest_of
from registry.errors import ContentError, ModelError, UsageError
from registry.layout import Layout
from registry.manifest import encode, make_manifest
from registry.reference import parse_reference
from registry.store import Store, open_store
from tests.parts import tiny
from tests.parts.command import ROOT
from tests.parts.oci11 import oci11, oras
from tests.parts.scorecards import (
    ACCURACY,
    HOW,
    PERPLEXITY,
    REPORT,
    SAMPLES,
    checkpoint,
    identity_of,
    published,
    scorecard,
    unmeasured,
)
from tests.parts.servers import Server
from tests.parts.strict import GHCR, StrictRegistry, strict_registry

SCHEMA = json.loads((ROOT / "docs/scorecard.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
LOST = replace(PERPLEXITY, verdict=Verdict.LOST, retention=Interval(0.8, 0.82, 0.84))
CARDS = {
    "retained": scorecard(),
    "lost": scorecard(verdict=Verdict.LOST, metrics=(LOST,), failures=("passage 3: not a number", "a crash")),
    "undecided": scorecard(
        verdict=Verdict.UNDECIDED, gate=Gate(undecided=Undecided.EXTEND), samples=replace(SAMPLES, needed=700)
    ),
    "accepted": scorecard(verdict=Verdict.UNDECIDED, gate=Gate(undecided=Undecided.ACCEPT)),
    "tasks": scorecard(divergence=None, samples=replace(SAMPLES, unit="items", tokens=0)),
    "nothing": scorecard(verdict=Verdict.LOST, metrics=(), divergence=None, failures=("it does not load",)),
}


def as_read(card: Scorecard) -> dict[str, Any]:
    return dict(json.loads(encode(card.to_json())))


# ---------------------------------------------------------------- the schema


@pytest.mark.parametrize("name", CARDS)
def test_what_is_written_follows_the_schema(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    VALIDATOR.validate(as_read(CARDS[name]))
    assert Scorecard.from_json(as_read(CARDS[name]), "") == CARDS[name]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("surprise", 1),
        ("version", 2),
        ("accepted", False),
        ("verdict", "maybe"),
        ("gate.retain", 0),
        ("gate.confidence", 1),
        ("gate.undecided", "guess"),
        ("candidate.digest", "sha256:12"),
        ("candidate.bytes", -1),
        ("candidate.path", "/home"),
        ("metrics", {}),
        ("samples.used", 1.5),
        ("samples.unit", ""),
        ("divergence", []),
        ("divergence.lost", 1.1),
        ("circumstances.versions.torch", 2),
        ("circumstances.time", "yesterday"),
        ("circumstances.time", "2026-03-01T12:00:00+02:00"),
        ("failures", [""]),
    ],
)
def test_what_is_not_so_does_not(place: str, value: object) -> None:
    wrong = as_read(scorecard())
    *folders, name = place.split(".")
    target = wrong
    for folder in folders:
        target = target[folder]
    target[name] = value
    assert not VALIDATOR.is_valid(wrong)


def test_every_member_of_every_class_is_in_the_schema() -> None:
    seen = dict[str, set[str]]()

    def walk(kind: Any, schema: dict[str, Any]) -> None:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        hints, names = get_type_hints(kind), {field.name for field in fields(kind)}
        extra = {"version", "accepted"} if kind is Scorecard else set()
        assert set(schema["properties"]) == set(schema["required"]) == names | extra
        assert schema["additionalProperties"] is False
        seen[kind.__name__] = names
        for name in names:
            member = schema["properties"][name]
            member = next((one for one in member.get("anyOf", ()) if "$ref" in one), member.get("items", member))
            for inner in (hints[name], *get_args(hints[name])):
                if isinstance(inner, type) and is_dataclass(inner):
                    walk(inner, member)

    walk(Scorecard, SCHEMA)
    assert len(seen) == 8
    assert all("description" in member for member in _members(SCHEMA))


def _members(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for one in (schema, *schema["$defs"].values()):
        yield one
        for member in one.get("properties", {}).values():
            yield SCHEMA["$defs"][member["$ref"].rpartition("/")[2]] if member.keys() == {"$ref"} else member


# ---------------------------------------------------------------- sent and found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", tiny.SHARDED)


@pytest.fixture
def strict() -> Iterator[StrictRegistry]:
    with strict_registry() as server:
        yield server


@pytest.fixture(params=["layout", "docker", "api", "bare", "tag", "page"])
def place(request: pytest.FixtureRequest, registry: Server, tmp_path: Path) -> Iterator[str]:
    """A place to publish to: a layout, two registries with the referrers API, one of which lists neither types nor
    annotations, and three without.
    """
    with contextlib.ExitStack() as stack:
        match request.param:
            case "layout":
                yield f"oci:{tmp_path}/layout"
            case "docker":
                yield f"{registry.address}/scorecards/{time.time_ns()}"
            case "api":
                yield f"{stack.enter_context(strict_registry(page=1)).address}/a/b"
            case "bare":
                yield f"{stack.enter_context(oci11(tmp_path / 'server', 'bare')).address}/a/b"
            case "tag":
                yield f"{stack.enter_context(strict_registry(referrers='none', etag=True)).address}/a/b"
            case _:
                yield f"{stack.enter_context(strict_registry(GHCR)).address}/a/b"


def store_at(place: str) -> Store:
    return open_store(parse_reference(place), Access())


def test_it_is_found_by_everything_that_was_measured(place: str, model: Path) -> None:
    release = published(model, f"{place}:v1")
    assert (release.changed, release.blobs_sent > 0) == (True, True)
    index = store_at(place).resolve("v1")
    names = [f"{place}:v1", f"{place}:v1-modelpack", release.image, release.modelpack, release.scorecard]
    names += [f"{place}@{entry.digest}" for entry in index.manifests]  # type: ignore[union-attr]
    assert len(names) == 7
    found = [fetch_scorecard(str(name), Access()) for name in names]
    assert len({reference.digest for _, reference in found}) == 4  # one about each manifest
    assert str(found[0][1]) == str(found[2][1]) == str(found[4][1]) == release.scorecard
    for one, reference in found:
        assert one.scorecard == scorecard(one.scorecard.candidate.digest)
        assert one.read_report().decode() == REPORT
        assert fetch_scorecard(str(reference), Access())[0].digest == one.digest == reference.digest
        VALIDATOR.validate(one.document)


def test_another_client_finds_it_and_fetches_all_of_it(strict: StrictRegistry, model: Path, tmp_path: Path) -> None:
    release = published(model, f"{strict.address}/a/b:v1")
    digest = str(release.scorecard).rpartition("@")[2]
    assert digest in oras("discover", "--plain-http", "--artifact-type", STATEMENT, f"{strict.address}/a/b:v1")
    oras("pull", "--plain-http", str(release.scorecard), "-o", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "scorecard.json",
        "statement.json",
    ]
    VALIDATOR.validate(json.loads((tmp_path / "out/scorecard.json").read_text()))


def test_the_same_again_sends_nothing(place: str, model: Path) -> None:
    first = published(model, f"{place}:v1")
    again = published(model, f"{place}:v1")
    assert (again.changed, again.blobs_sent) == (False, 0)
    assert again.scorecard == first.scorecard
    assert len(store_at(place).referrers(store_at(place).resolve("v1").descriptor.digest)) == 1


def test_no_tag_is_ever_without_its_evidence(strict: StrictRegistry, model: Path) -> None:
    release = published(model, f"{strict.address}/a/b:v1")
    puts = [request.path for request in strict.requests if request.method == "PUT" and "/manifests/" in request.path]
    names = [path.rpartition("/")[2] for path in puts]
    assert names[-2:] == ["v1", "v1-modelpack"]
    assert str(release.scorecard).rpartition("@")[2] in names[:-2]
    assert len(names) == 4 + 4 + 2
    assert strict.problems() == []


def test_without_a_scorecard_none_is_said_to_be_there(place: str, model: Path) -> None:
    assert unmeasured(model, f"{place}:v1").scorecard is None
    with pytest.raises(ModelError) as caught:
        fetch_scorecard(f"{place}:v1", Access())
    assert caught.value.exit_code == 3  # no registry has failed
    assert f"packer evaluate {place}:v1 --baseline SOURCE" in caught.value.hint


def test_a_folder_has_no_scorecard(model: Path) -> None:
    for words in (("scorecard", str(model)), ("diff", str(model), str(model))):
        with pytest.raises(UsageError, match="no published artifact"):
            ran(*words)


@pytest.mark.parametrize("referrers", ["api", "none"])
def test_the_last_of_several_counts(model: Path, referrers: Any) -> None:
    """They are published in no order of time; the last is told with a fraction of a second."""
    times = ["2026-03-02T00:00:00Z", "2026-03-02T00:00:00.5Z", "2026-01-01T00:00:00Z"]
    with strict_registry(referrers=referrers) as server:
        place = f"{server.address}/a/b"
        for moment in times:
            published(model, f"{place}:v1", circumstances=replace(HOW, time=moment))
        assert len(store_at(place).referrers(store_at(place).resolve("v1").descriptor.digest)) == 3
        assert fetch_scorecard(f"{place}:v1", Access())[0].scorecard.circumstances.time == times[1]


def test_it_goes_along_with_every_copy(strict: StrictRegistry, model: Path, tmp_path: Path) -> None:
    release = published(model, f"oci:{tmp_path}/layout:v1")
    with strict_registry(referrers="none") as other:
        runner = CliRunner()
        for words in (
            ("push", f"{tmp_path}/layout", f"{strict.address}/a/b:v1"),
            ("copy", f"{strict.address}/a/b:v1", f"{other.address}/c/d:v2", f"oci:{tmp_path}/copy:v3"),
        ):
            assert runner.invoke(cli, words, catch_exceptions=False).exit_code == 0
        digest = str(release.scorecard).rpartition("@")[2]
        for copied in (f"{strict.address}/a/b:v1", f"{other.address}/c/d:v2", f"oci:{tmp_path}/copy:v3"):
            assert fetch_scorecard(copied, Access())[1].digest == digest
            assert fetch_scorecard(f"{copied}-modelpack", Access())[0].read_report().decode() == REPORT
        assert other.problems() == []


# ---------------------------------------------------------------- what others put there


def attach(store: Store, subject: Descriptor, layers: dict[str, bytes], **changes: Any) -> str:
    """A referrer of a manifest, over layers of these types; returns its digest."""
    said = {"packer.verdict": "retained", CREATED: "2099-01-01T00:00:00Z", PREDICATE_TYPE: PREDICATE}
    config = BytesBlob.of("application/vnd.oci.empty.v1+json", b"{}")
    blobs = [document("x", kind, data) for kind, data in layers.items()]
    for blob in (config, *blobs):
        store.push(blob)
    kind, annotations = changes.get("kind", STATEMENT), changes.get("annotations", said)
    descriptors = [replace(blob.descriptor, size=changes.get("size", blob.descriptor.size)) for blob in blobs]
    manifest = make_manifest(config.descriptor, descriptors, annotations, kind, subject)
    store.put(manifest)
    return manifest.descriptor.digest


@pytest.fixture
def layout(model: Path, tmp_path: Path) -> tuple[str, Store, Descriptor]:
    published(model, f"oci:{tmp_path}/layout:v1")
    store = Layout(tmp_path / "layout")
    return f"oci:{tmp_path}/layout:v1", store, store.resolve("v1").descriptor


def test_referrers_of_others_are_passed_by(strict: StrictRegistry, model: Path) -> None:
    place = f"{strict.address}/a/b"
    published(model, f"{place}:v1")
    store, subject = store_at(place), store_at(place).resolve("v1").descriptor
    provenance = {STATEMENT: b"{}"}
    foreign = [
        attach(store, subject, provenance, annotations={PREDICATE_TYPE: "https://slsa.dev/provenance/v1"}),
        attach(store, subject, provenance, kind="application/spdx+json"),
        attach(store, subject, provenance, kind="application/vnd.dev.sigstore.bundle.v0.3+json", annotations={}),
    ]
    bare = attach(store, subject, provenance, annotations={})
    attach(store, subject, provenance)
    before = len(strict.requests)
    fetch_scorecard(f"{place}:v1", Access())
    asked = [request.path.rpartition("/")[2] for request in strict.requests[before:]]
    assert not set(foreign) & set(asked)
    assert bare in asked  # a registry that lists no annotations says nothing of a referrer


def hostile(**changes: Any) -> bytes:
    written = as_read(scorecard())
    for place, value in changes.items():
        part, _, name = place.partition("__")
        if name:
            written[part][name] = value
        else:
            written[part] = value
    return json.dumps(written).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "no scorecard"),
        (hostile(version=2), "another version"),
        (hostile(gate__retain="x"), "malformed"),
        (hostile(gate=[]), "no scorecard"),
        (hostile(metrics=[1]), "no scorecard"),
        (hostile(divergence=[[]]), "no scorecard"),
        (hostile(candidate__bytes=10**400), "malformed"),
        (hostile(candidate__name={"a": []}), "malformed"),
        (hostile(circumstances__time="soon"), "malformed"),
        (hostile(circumstances__versions={"a": 1}), "malformed"),
        (hostile(failures=[1]), "malformed"),
        (hostile(candidate__name=json.loads("[" * 900 + "]" * 900)), "malformed"),
        (hostile(gate__retain=float("nan")), "JSON"),
        (hostile(candidate__name="x" * 2001), "absurd length"),
        (hostile(failures=["x"] * 201), "absurd length"),
    ],
)
def test_a_scorecard_that_is_none_is_refused(layout: tuple[str, Store, Descriptor], data: bytes, said: str) -> None:
    text, store, subject = layout
    digest = attach(store, subject, {SCORECARD: data})
    with pytest.raises(ContentError, match=said) as caught:
        fetch_scorecard(f"{text.rpartition(':')[0]}@{digest}", Access())
    assert caught.value.subject == digest
    assert fetch_scorecard(text, Access())[0].scorecard.verdict is Verdict.RETAINED  # that which was there still is


def test_a_scorecard_that_is_too_large_is_not_fetched(strict: StrictRegistry, model: Path) -> None:
    place = f"{strict.address}/a/b"
    published(model, f"{place}:v1")
    subject = store_at(place).resolve("v1").descriptor
    repository = strict.repository("a/b")
    digest = strict.put_blob("a/b", bytes(MAX_DOCUMENT + 1))
    document = json.loads(repository.manifests[str(fetch_scorecard(f"{place}:v1", Access())[1].digest)].data)
    document["layers"][1] |= {"digest": digest, "size": MAX_DOCUMENT + 1}
    wrong = strict.put_manifest("a/b", document)
    assert document["subject"]["digest"] == subject.digest
    with pytest.raises(ContentError, match="too large"):
        fetch_scorecard(f"{place}@{wrong}", Access())
    assert not any(digest in request.path for request in strict.requests)


def test_a_referrer_of_another_manifest_is_not_believed(strict: StrictRegistry, model: Path) -> None:
    """A list that names what is about something else: kept under the tag, where anybody may write it."""
    strict.mode = replace(strict.mode, referrers="none")
    place = f"{strict.address}/a/b"
    release = published(model, f"{place}:v1")
    tags = strict.tags("a/b")
    fallback = {digest: f"sha256-{digest[7:]}" for digest in strict.manifests("a/b")}
    image, modelpack = (str(name).rpartition("@")[2] for name in (release.image, release.modelpack))
    strict.repository("a/b").tags[fallback[image]] = tags[fallback[modelpack]]
    with pytest.raises(ModelError, match="nothing is published"):
        fetch_scorecard(f"{place}:v1", Access())


# ---------------------------------------------------------------- for people


@pytest.mark.parametrize("name", CARDS)
def test_it_is_shown_in_lines_that_are_safe_to_print(name: str) -> None:
    card = replace(CARDS[name], candidate=replace(CARDS[name].candidate, name="tiny\x1b[31m\r"))
    shown = render(card)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert shown.lower().startswith(card.verdict.value)
    for text in (card.baseline.digest, card.samples.suite_digest, "torch 2.13.0", *card.failures):
        assert text in shown


def test_the_table_of_a_scorecard() -> None:
    lines = [" ".join(line.split()) for line in render(scorecard()).splitlines()]
    assert "metric baseline candidate retention between verdict" in lines
    assert "perplexity 12.31 12.50 98.5 % 98.1 to 98.9 % retained" in lines
    assert "accuracy 0.4100 0.4000 97.6 % 95.0 to 101.0 % (not gated)" in lines
    assert "Known with 95 % confidence from 96 of 400 passages (24,480 tokens) of the suite fidelity." in lines[1]
    assert "needed" not in "".join(lines)
    assert "needed 700 passages, to decide" in " ".join(render(CARDS["undecided"]).split())
    assert "stopped the verdict is known" in lines
    assert any(line.startswith("divergence mean 0.013 nats (0.011 to 0.014), p99 0.21, at most 3.2") for line in lines)


def ran(*words: str) -> str:
    """What a command prints that ends well."""
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_the_command(strict: StrictRegistry, model: Path, tmp_path: Path) -> None:
    release = published(model, f"{strict.address}/a/b:v1")
    shown = ran("scorecard", f"{strict.address}/a/b:v1", "--report", f"{tmp_path}/report.html")
    assert shown.splitlines()[-1] == release.scorecard
    assert (tmp_path / "report.html").read_text() == REPORT
    written = json.loads(ran("scorecard", str(release.modelpack), "--json"))
    VALIDATOR.validate(written)
    assert written["verdict"] == "retained"


def test_inspect_tells_of_it_and_fetches_no_more(strict: StrictRegistry, model: Path) -> None:
    release = published(model, f"{strict.address}/a/b:v1")
    before = len(strict.blobs_read())
    shown = json.loads(ran("inspect", f"{strict.address}/a/b:v1", "--json"))
    assert shown["evaluation"] == {
        "verdict": "retained",
        "retention": "0.9848",
        "retention_low": "0.9812",
        "suite": "fidelity",
        "baseline": digest_of(b"baseline"),
        "recipe": "int8-w8a8",
        "scorecard": str(release.scorecard).rpartition("@")[2],
    }
    lines = ran("inspect", f"{strict.address}/a/b:v1").splitlines()
    assert "  evaluation    retained: retains 0.9848 of the baseline, at least 0.9812" in lines
    assert f"  scorecard     {shown['evaluation']['scorecard']}" in lines
    assert len(strict.blobs_read()) == before
    unmeasured(model, f"{strict.address}/a/b:v2")
    assert "evaluation" not in json.loads(ran("inspect", f"{strict.address}/a/b:v2", "--json"))


# ---------------------------------------------------------------- compared


@pytest.fixture
def variant(model: Path) -> Path:
    """The same model with another second shard and another config."""
    files = dict(tiny.SHARDED)
    name = "model-00002-of-00002.safetensors"
    files[name] = tiny.safetensors_bytes(json.dumps({"b": tiny.tensor(0, 8, "I64", [1])}), bytes(8))
    return tiny.write_folder(model.parent / "variant", files)


def test_two_variants_side_by_side(strict: StrictRegistry, model: Path, variant: Path, tmp_path: Path) -> None:
    one, other = f"{strict.address}/a/b:v1", f"oci:{tmp_path}/layout:v2"
    better = replace(PERPLEXITY, retention=Interval(0.9902, 0.9934, 0.9966))
    published(model, one)
    release = published(variant, other, "fp8-dynamic", metrics=(better, ACCURACY), samples=replace(SAMPLES, used=128))
    told = json.loads(ran("diff", one, other, "--json"))
    assert (told["event"], told["comparable"], told["why_not"]) == ("difference", True, [])
    assert told["b"]["digest"] == release.image.rpartition("@")[2]
    assert (told["a"]["model"]["dtypes"], told["b"]["model"]["dtypes"]) == ({"F32": 6}, {"F32": 4, "I64": 1})
    paths = {kind: [layer["path"] for layer in layers] for kind, layers in told["layers"].items()}
    shard = "models/model-0000{}-of-00002.safetensors"
    assert paths == {"shared": [shard.format(1), "models"], "only_a": [shard.format(2)], "only_b": [shard.format(2)]}
    sizes = dict(_sizes(tmp_path / "layout"))
    assert told["bytes"]["only_b"] == sizes[told["layers"]["only_b"][0]["digest"]]
    assert told["bytes"]["shared"] == sum(sizes[layer["digest"]] for layer in told["layers"]["shared"])
    assert told["b"]["scorecard"]["metrics"][0]["retention"]["estimate"] == 0.9934
    lines = [" ".join(line.split()) for line in ran("diff", one, other).splitlines()]
    assert (
        f"2 layers of {told['bytes']['shared'] / 1024:.1f} KiB in both; a node that has A still pulls 2.5 KiB for B"
        in lines
    )
    assert "retention of perplexity 98.5 % 98.1 to 98.9 % 99.3 % 99.0 to 99.7 %" in lines
    assert "divergence, nats 0.013 0.011 to 0.014 0.013 0.011 to 0.014" in lines
    assert "agreement 90.1 % 89.8 to 90.5 % 90.1 % 89.8 to 90.5 %" in lines
    assert "parameters 6 5 differs" in lines
    assert "recipe int8-w8a8 fp8-dynamic differs" in lines
    assert "note not the same in both: samples" in lines


def _sizes(layout: Path) -> Iterator[tuple[str, int]]:
    for path in (layout / "blobs/sha256").iterdir():
        yield f"sha256:{path.name}", path.stat().st_size


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"baseline": replace(scorecard().baseline, digest=digest_of(b"x"))},
            "against other baselines: A tiny sha256:",
        ),
        ({"samples": replace(SAMPLES, suite="ours", suite_digest=digest_of(b"x"))}, "other suites: A fidelity, B ours"),
        ({"samples": replace(SAMPLES, data="ours", data_digest=digest_of(b"x"))}, "other data: A pride-and-prejudice"),
    ],
)
def test_evaluations_that_cannot_be_compared(
    model: Path, variant: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    places = [f"oci:{tmp_path}/layout:{name}" for name in ("a", "b")]
    published(model, places[0])
    published(variant, places[1], **changes)
    difference = compare(places[0], places[1], Access())
    assert said in "".join(difference.unlike)
    shown = render_difference(difference)
    assert "cannot be compared" in shown
    assert "99" not in shown.partition("cannot be compared")[2]


@pytest.mark.parametrize("how", ["measured", "by digest"])
def test_a_variant_and_its_baseline(model: Path, variant: Path, tmp_path: Path, how: str) -> None:
    """The scorecard of the one compares it with the other: that is said, whichever stands first."""
    first, second = (f"oci:{tmp_path}/layout:{name}" for name in ("a", "b"))
    if how == "measured":
        published(model, first)
        base = replace(scorecard().baseline, digest=identity_of(checkpoint(model)))
    else:
        digest = unmeasured(model, first).image.rpartition("@")[2]
        base = replace(scorecard().baseline, revision=digest)
    published(variant, second, baseline=base)
    for pair, said in (((first, second), "A is what B"), ((second, first), "B is what A")):
        difference = compare(*pair, Access())
        (why,) = difference.unlike
        assert why.startswith(f"{said} was measured against")
        assert "Retained: perplexity keeps 98.5\u00a0% of the baseline" in why
        assert f"packer scorecard {second}" in render_difference(difference)


def test_a_variant_without_a_scorecard(strict: StrictRegistry, model: Path, tmp_path: Path) -> None:
    plain, measured = f"{strict.address}/a/b:v1", f"oci:{tmp_path}/layout:v1"
    unmeasured(model, plain)
    published(model, measured)
    told = json.loads(ran("diff", plain, f"{measured}-modelpack", "--json"))
    assert (told["comparable"], told["why_not"]) == (False, ["A has no scorecard"])
    assert (told["bytes"]["only_a"], told["bytes"]["only_b"], told["a"]["recipe"]) == (0, 0, None)
    assert "A has no scorecard; B has no scorecard" in ran("diff", plain, plain)
