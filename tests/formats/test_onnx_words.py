"""What is said of an ONNX model: versions that nobody has, and paths that lead nowhere."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from formats.examine import examine
from formats.findings import Finding
from formats.onnx_tensors import raw_size
from formats.values import measure
from fuzz.mutant import Content, Mutant
from fuzz.onnx import DATA
from fuzz.subject import snapshot_of
from tests.models import make

NEWEST = onnx.defs.onnx_opset_version()


def findings(folder: Path, files: make.Files) -> list[Finding]:
    made = {name: data if isinstance(data, Content) else Content(data) for name, data in files.items()}
    Mutant(made, "test").write(folder)
    return list(examine(snapshot_of(folder)).findings)


@pytest.mark.parametrize("domain", ["", "ai.onnx", "ai.onnx.ml"])
def test_an_opset_that_does_not_exist(tmp_path: Path, domain: str) -> None:
    (found,) = findings(tmp_path, make.graph(lambda made: made.opset_import.add(domain=domain, version=99)))
    newest = onnx.defs.onnx_ml_opset_version() if domain == "ai.onnx.ml" else NEWEST
    assert (found.rule.id, found.found) == ("onnx-opset", f"{domain or 'ai.onnx'} 99")
    assert found.expected == f"{domain or 'ai.onnx'} {newest} or older"


def test_the_newest_opset_and_those_of_others(tmp_path: Path) -> None:
    def change(made: onnx.ModelProto) -> None:
        made.opset_import[0].version = NEWEST
        made.opset_import.add(domain="com.microsoft", version=99)

    assert not findings(tmp_path, make.graph(change))


@pytest.mark.parametrize(
    ("location", "said"),
    [("../a", "'../a': it has an empty part, '.' or '..'"), ("", "'': it is empty"), ("./", "'./': it is empty")],
)
def test_a_path_that_is_refused_is_shown_as_it_stands(tmp_path: Path, location: str, said: str) -> None:
    (found,) = findings(tmp_path, make.graph(make.outside(location)))
    assert found.rule.id == "onnx-external-path"
    assert said in found.found


def test_two_paths_are_both_shown(tmp_path: Path) -> None:
    def twice(made: onnx.ModelProto) -> None:
        make.outside("a")(made)
        make.first(made).external_data.add(key="location", value="b")

    (found,) = findings(tmp_path, make.graph(twice))
    assert (found.expected, found.found) == ("one location", "2 locations: 'a' and 'b'")


def test_no_path(tmp_path: Path) -> None:
    def none(made: onnx.ModelProto) -> None:
        make.outside(DATA)(made)
        del make.first(made).external_data[:]

    (found,) = findings(tmp_path, make.graph(none))
    assert found.found == "0 locations: none"


def test_bytes_of_raw_data() -> None:
    sizes = {"FLOAT": 12, "INT64": 24, "BOOL": 3, "INT4": 2, "STRING": None}
    assert {name: raw_size(name, 3) for name in sizes} == sizes


BROKEN_IN_PART = {
    "short": (make.outside("data.bin", offset="8", length="16"), "onnx-external-range"),
    "refused": (
        lambda made: (make.outside("data.bin")(made), made.graph.node[0].input.append("nowhere")),
        "onnx-checker",
    ),
}


@pytest.mark.parametrize("kind", BROKEN_IN_PART)
def test_data_of_a_model_that_is_refused_is_no_pickle(tmp_path: Path, kind: str) -> None:
    change, rule = BROKEN_IN_PART[kind]
    found = findings(tmp_path, make.graph(change, **{"data.bin": bytes(16)}))
    assert [finding.rule.id for finding in found] == [rule]


def test_every_missing_file_is_told(tmp_path: Path) -> None:
    def two(made: onnx.ModelProto) -> None:
        make.outside("a.bin")(made)
        made.graph.initializer.add().CopyFrom(make.first(made))
        made.graph.initializer[1].name = "v"
        made.graph.initializer[1].external_data[0].value = "b.bin"

    found = findings(tmp_path, make.graph(two, **{"data.bin": bytes(16)}))
    missing = [finding for finding in found if finding.rule.id == "onnx-external-missing"]
    assert [(finding.tensor, finding.expected) for finding in missing] == [("w", "a.bin"), ("v", "b.bin")]


def test_what_is_refused_is_measured_as_far_as_it_goes(tmp_path: Path) -> None:
    made = make.graph(make.outside("data.bin", length="20"), **{"data.bin": bytes(16)})
    findings(tmp_path, made)
    assert [values.moments.seen for values in measure(examine(snapshot_of(tmp_path)))] == [0]
