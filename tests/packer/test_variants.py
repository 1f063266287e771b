"""Several builds from one file, and their outcome for jobs: JSON, a file a value, lines of NAME=VALUE."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from packer.buildfile import read_builds, with_variant
from packer.commands.build import builds_of
from packer.results import LONGEST, NAMES, Places, hints, values
from registry.errors import UsageError
from tests.parts import tiny
from tests.parts.command import events, packer, release
from tests.parts.servers import Server, reserved_port

FILE = """
source: ./model
quantize: fp8-dynamic
evaluate: fidelity
publish: {to: "registry.example.com:5000/models/smollm2:v1", base: none}
variants:
  - {name: fp8, evaluate: {retain: 0.95}}
  - {name: int8, quantize: int8-w8a8-rtn, evaluate: {retain: 0.9, budget: 5m}}
  - {name: raw, publish: {to: "oci:out", modelpack: raw}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two variants of a tiny model that differ in their ModelPack manifest."""
    tiny.write_folder(tmp_path / "model", tiny.SHARDED)
    variants = [{"name": "plain"}, {"name": "raw", "publish": {"modelpack": "raw"}}]
    document = {"source": "model", "publish": {"to": "oci:out", "base": "none"}, "variants": variants}
    (tmp_path / "packer.yaml").write_text(json.dumps(document))
    return tmp_path


def test_a_variant_has_what_the_file_says_and_what_it_says_itself(tmp_path: Path) -> None:
    (tmp_path / "packer.yaml").write_text(FILE)
    builds = read_builds(tmp_path / "packer.yaml")
    assert {name: build.publish.to for name, build in builds.items()} == {
        "fp8": "registry.example.com:5000/models/smollm2:v1-fp8",
        "int8": "registry.example.com:5000/models/smollm2:v1-int8",
        "raw": f"oci:{tmp_path / 'out'}",
    }
    assert [build.quantize.recipe for build in builds.values()] == ["fp8-dynamic", "int8-w8a8-rtn", "fp8-dynamic"]
    assert [build.evaluate.suite for build in builds.values()] == ["fidelity"] * 3
    assert [build.evaluate.retain for build in builds.values()] == [0.95, 0.9, None]
    assert [build.evaluate.budget for build in builds.values()] == [1200, 300, 1200]
    assert [build.publish.base for build in builds.values()] == ["none"] * 3
    assert {build.source for build in builds.values()} == {str(tmp_path / "model")}


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("h:5000/a/b", "h:5000/a/b:n"),
        ("h/a:v1", "h/a:v1-n"),
        ("oci:out", "oci:out:n"),
        ("oci:./x:y/out", "oci:./x:y/out:n"),
        ("oci:out:v1", "oci:out:v1-n"),
    ],
)
def test_where_a_variant_goes(to: str, expected: str) -> None:
    assert with_variant(to, "n") == expected


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ("{fp8: {}}", "this is no list of variants"),
        ("[]", "this is no list of variants"),
        ("[fp8]", "this is no list of variants"),
        ("[{quantize: fp8-dynamic}]", "a variant has a name"),
        ("[{name: 'a b'}]", "a variant has a name"),
        ("[{name: a}, {name: a}]", "this name is taken"),
        ("[{name: a, quantise: x}]", "did you mean 'quantize'?"),
        ("[{name: a, variants: []}]", "the key 'variants' is not known"),
    ],
)
def test_variants_that_are_wrong(tmp_path: Path, variants: str, said: str) -> None:
    (tmp_path / "packer.yaml").write_text(f"source: ./model\nvariants: {variants}\n")
    with pytest.raises(UsageError, match=r"(?s)" + said.replace("?", r"\?")):
        read_builds(tmp_path / "packer.yaml")


def test_all_variants_are_built_or_those_that_are_named(folder: Path) -> None:
    told = [one for one in events("build", folder / "packer.yaml") if one["event"] == "release"]
    assert [(one["variant"], one["tags"][0]) for one in told] == [("plain", "plain"), ("raw", "raw")]
    assert told[0]["image"] == told[1]["image"]
    assert told[0]["modelpack"] != told[1]["modelpack"]
    one = release(folder / "packer.yaml", "--variant", "raw", "--to", f"oci:{folder}/other:v2")
    assert (one["tags"], one["modelpack"].partition("@")[2]) == (
        ["v2-raw", "v2-raw-modelpack"],
        told[1]["modelpack"].partition("@")[2],
    )


def test_the_last_words_are_of_each_variant(folder: Path) -> None:
    """Where each is, or why it is nowhere; those behind one that failed are named too."""
    document = json.loads((folder / "packer.yaml").read_text())
    wrong = {"name": "wrong", "source": "nothing"}
    variants = [document["variants"][0], wrong, document["variants"][1]]
    (folder / "packer.yaml").write_text(json.dumps({**document, "variants": variants}))
    done = packer("build", folder / "packer.yaml", "--result-file", folder / "r", check=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("variant ")] == [
        "variant   plain",
        "variant   wrong",
    ]
    rows = [line.split(maxsplit=3) for line in done.stdout.splitlines()[-3:]]
    assert rows[0] == ["plain", "-", "-", f"oci:{folder}/out:plain"]
    assert rows[1][:3] == ["wrong", "-", "-"]
    assert rows[1][3].startswith(f"failed: {folder}/nothing: there is no such model")
    assert rows[2] == ["raw", "-", "-", "not built"]
    told = json.loads((folder / "r").read_text())["variants"]
    assert [(one["variant"], one["event"]) for one in told] == [
        ("plain", "release"),
        ("wrong", "error"),
        ("raw", "none"),
    ]
    assert told[0]["IMAGE_URL"] == f"oci:{folder}/out:plain"
    assert told[0]["image"] == f"oci:{folder}/out@{told[0]['IMAGE_DIGEST']}"
    last = events("build", folder / "packer.yaml", "--variant", "plain", "--variant", "raw")[-1]
    assert (last["event"], [one["to"] for one in last["variants"]]) == (
        "variants",
        [f"oci:{folder}/out:plain", f"oci:{folder}/out:raw"],
    )
    page = packer("ci", "summary", folder / "r").stdout
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        f"## `oci:{folder}/out:plain`",
        "## Failed: wrong",
        "## Nothing was published of raw",
    ]


def test_what_is_said_of_variants(folder: Path) -> None:
    done = packer("build", folder / "packer.yaml", "--variant", "rwa", check=False)
    assert (done.returncode, "plain, raw" in done.stderr) == (2, True)
    done = packer("build", folder / "packer.yaml", "--result-env", folder / "x", check=False)
    assert (done.returncode, "choose one: --variant plain" in done.stderr) == (2, True)
    plan = packer("plan", folder / "packer.yaml").stdout.splitlines()
    assert [line for line in plan if line.startswith("variant ")] == ["variant   plain", "variant   raw"]
    assert [line for line in plan if line.startswith("publish ")][1].startswith(f"publish   oci:{folder}/out:raw: ")
    one = packer("plan", folder / "packer.yaml", "--variant", "raw").stdout
    assert (one.startswith("fetch "), one.count("publish ")) == (True, 1)
    told = packer("plan", folder / "packer.yaml", "--json").stdout.splitlines()
    assert [json.loads(line)["variant"] for line in told] == ["plain", "raw"]
    done = packer("build", folder / "model", "--to", "oci:x", "--variant", "raw", check=False)
    assert (done.returncode, "a build file with variants:" in done.stderr) == (2, True)


def test_results_in_three_forms(folder: Path, registry: Server) -> None:
    flags = ("--result-file", folder / "a/result.json", "--result-dir", folder / "b", "--result-env", folder / "env")
    (folder / "env").write_text("KEPT=1\n")
    to = f"{registry.address}/variants/results:v1"
    last = release(folder / "packer.yaml", "--variant", "plain", "--to", to, *flags)
    document = json.loads((folder / "a/result.json").read_text())
    assert {key: value for key, value in document.items() if key not in NAMES} == last
    assert {name: document[name] for name in NAMES} == {name: (folder / "b" / name).read_text() for name in NAMES}
    files = {path.name: path.read_text() for path in (folder / "b").iterdir()}
    repository, _, digest = last["image"].partition("@")
    modelpack = {"uri": files["MODELPACK_URL"], "digest": files["MODELPACK_DIGEST"], "isBuildArtifact": "true"}
    assert json.loads(files.pop("modelpack_ARTIFACT_OUTPUTS")) == modelpack
    assert files == {
        **dict.fromkeys(NAMES, ""),
        "IMAGE_URL": f"{repository}:v1-plain",
        "IMAGE_DIGEST": digest,
        "MODELPACK_URL": f"{repository}:v1-plain-modelpack",
        "MODELPACK_DIGEST": last["modelpack"].partition("@")[2],
        "CHANGED": "true",
    }
    lines = (folder / "env").read_text().splitlines()
    assert lines == ["KEPT=1", *(f"{name}={files[name]}" for name in NAMES)]


def test_the_source_is_among_the_results(folder: Path, registry: Server) -> None:
    to = f"{registry.address}/variants/source:v1"
    made = release(folder / "model", "--to", to, "--base", "none")
    release(f"oci://{to}", "--to", f"oci:{folder}/again", "--base", "none", "--result-dir", folder / "b")
    assert (folder / "b/SOURCE_URL").read_text() == f"oci://{registry.address}/variants/source"
    revision = (folder / "b/SOURCE_REVISION").read_text()
    assert revision.startswith("sha256:")
    hint = json.loads((folder / "b/source_ARTIFACT_INPUTS").read_text())
    assert hint == {"uri": f"oci://{registry.address}/variants/source", "digest": revision}
    assert made["image"].startswith(registry.address)


def test_an_error_is_a_result(folder: Path) -> None:
    (folder / "model/config.json").write_text("{")
    flags = ("--to", f"oci:{folder}/out:v1", "--base", "none", "--result-file", folder / "r", "--result-dir", folder)
    done = packer("build", folder / "model", *flags, check=False)
    assert done.returncode == 3
    document = json.loads((folder / "r").read_text())
    assert (document["event"], "config.json" in json.dumps(document)) == ("error", True)
    assert (folder / "IMAGE_DIGEST").read_text() == ""


def test_what_was_refused_is_not_tried_again(folder: Path) -> None:
    """The same exit at once, and the same outcome, though the model is another one by now; another kind is tried."""
    kept = (folder / "model/config.json").read_text()
    (folder / "model/config.json").write_text("{")
    flags = ("--to", f"oci:{folder}/out:v1", "--base", "none", "--refusal", folder / "a/refusal")
    first = packer("build", folder / "model", *flags, "--result-file", folder / "first", check=False)
    assert (first.returncode, "not tried again" in first.stderr) == (3, False)
    (folder / "model/config.json").write_text(kept)
    again = packer("build", folder / "model", *flags, "--result-file", folder / "again", "--json", check=False)
    assert (again.returncode, "refused before, and is not tried again" in again.stderr) == (3, True)
    assert (folder / "again").read_text() == (folder / "first").read_text()
    document = json.loads((folder / "first").read_text())
    assert json.loads(again.stdout) == {key: value for key, value in document.items() if key not in NAMES}
    assert packer("build", folder / "model", *flags[:-1], folder / "another").returncode == 0
    assert not (folder / "another").exists()


def test_what_may_pass_is_tried_again(folder: Path) -> None:
    """A registry that does not answer: nothing is noted."""
    with reserved_port() as port:
        flags = ("--to", f"127.0.0.1:{port}/none:v1", "--base", "none", "--refusal", folder / "refusal")
        assert packer("build", folder / "model", *flags, check=False).returncode == 5
    assert not (folder / "refusal").exists()


def test_a_scorecard_that_says_no_is_a_refusal(folder: Path) -> None:
    places = Places(refusal=folder / "refusal")
    places.write({"event": "release"}, {})
    assert places.refused() is None
    places.write({"event": "scorecard", "verdict": "lost"}, {"VERDICT": "lost"})
    before = places.refused()
    assert before and (before.exit_code, before.why, before.values) == (4, "lost", {"VERDICT": "lost"})


def test_a_commit_is_told_as_chains_reads_it() -> None:
    told = values({"fetch": {"origin": {"kind": "hf", "name": "acme/tiny", "revision": "5" * 40}}})
    source = {"uri": "hf://acme/tiny", "digest": f"sha1:{'5' * 40}"}
    assert hints(told) == {"source_ARTIFACT_INPUTS": json.dumps(source)}
    assert hints(values({})) == {}


def test_so_is_a_build_file_that_is_wrong(folder: Path) -> None:
    (folder / "packer.yaml").write_text("sorce: x\n")
    done = packer("build", folder / "packer.yaml", "--result-file", folder / "r", check=False)
    assert done.returncode == json.loads((folder / "r").read_text())["exit_code"] == 2


def test_no_value_breaks_out_of_its_line() -> None:
    told = values({"fetch": {"origin": {"kind": "hf", "name": "a\nIMAGE_DIGEST=x" * 99, "revision": "\r\n"}}})
    assert all(len(value) <= LONGEST and value.isprintable() for value in told.values())
    assert LONGEST * len(NAMES) < 4096


def test_variants_have_reports_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "packer.yaml").write_text(FILE.replace("evaluate: fidelity", "evaluate: {suite: fidelity, report: r}"))
    builds = builds_of(str(tmp_path / "packer.yaml"), {})
    assert {name: build.evaluate.report for name, build in builds.items()} == {
        name: tmp_path / "r" / name for name in ("fp8", "int8", "raw")
    }


@pytest.mark.parametrize("suite", ["{data: 5}", "{include: null, tasks: [a]}", "{data: [x]}"])
def test_a_suite_of_wrong_types_is_no_defect(tmp_path: Path, suite: str) -> None:
    (tmp_path / "packer.yaml").write_text(f"source: m\nevaluate: {{suite: {suite}}}\n")
    assert read_builds(tmp_path / "packer.yaml")[""].evaluate.suite
