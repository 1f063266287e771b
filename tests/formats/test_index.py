"""Indexes of shards as they are published: large ones, those of variants, numbers that are only names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from formats.document import MAX_CONFIG, MAX_TEXTS
from formats.examine import examine
from formats.findings import RejectedError
from formats.index import INDEX, read_index
from formats.snapshot import ModelFile
from fuzz.subject import snapshot_of
from registry.blob import FileBlob
from tests.models.make import weights
from tests.parts.tiny import write_folder

INDEX_NAME = "model.safetensors.index.json"


def index(weight_map: dict[str, str], **metadata: Any) -> bytes:
    return json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2).encode()


def shard(*names: str) -> bytes:
    return weights({name: [4] for name in names})


def broken(folder: Path, files: dict[str, bytes]) -> list[tuple[str, str]]:
    """The rules that a model breaks, and where."""
    findings = examine(snapshot_of(write_folder(folder, files))).findings
    return [(finding.rule.id, finding.tensor or finding.file) for finding in findings]


def written(folder: Path, data: bytes) -> ModelFile:
    (folder / INDEX_NAME).write_bytes(data)
    return ModelFile.of(INDEX_NAME, FileBlob.at(folder / INDEX_NAME))


def test_the_largest_index_that_is_known(tmp_path: Path) -> None:
    names = [
        f"language_model.model.layers.{at // 3400}.mlp.experts.{at % 3400}.w.weight_scale" for at in range(207_000)
    ]
    weight_map = {name: f"model-{at // 3400 + 1:05}-of-00062.safetensors" for at, name in enumerate(names)}
    data = index(weight_map, total_size=1.03e12, step=None, note='a "b"\n')
    assert len(data) > 20 << 20
    read = read_index(written(tmp_path, data))
    assert read.weight_map == weight_map
    assert read.metadata == {"total_size": 1.03e12, "step": None, "note": 'a "b"\n'}


@pytest.mark.parametrize(("count", "said"), [(400_000, ""), (450_000, "names that take more than")])
def test_names_are_bounded_by_the_memory_that_they_take(tmp_path: Path, count: int, said: str) -> None:
    file = written(tmp_path, json.dumps({"weight_map": dict.fromkeys(map(str, range(count)), "a")}).encode())
    if not said:
        assert len(read_index(file).weight_map) == count
    else:
        with pytest.raises(RejectedError, match="no index") as caught:
            read_index(file)
        assert said in str(caught.value)


@pytest.mark.parametrize("spaces", [0, MAX_CONFIG])
def test_files_of_an_index_are_bounded(tmp_path: Path, spaces: int) -> None:
    for count in (MAX_TEXTS, MAX_TEXTS + 1):
        data = index({str(at): f"{at}.safetensors" for at in range(count)}) + b" " * spaces
        if count == MAX_TEXTS:
            assert len(read_index(written(tmp_path, data)).weight_map) == count
        else:
            with pytest.raises(RejectedError, match="no index"):
                read_index(written(tmp_path, data))


REPEATED = {
    "a tensor": b'{"weight_map":{"a":"b","a":"c"}}',
    "an escaped tensor": b'{"weight_map":{"a":"b","\\u0061":"c"}}',
    "a map": b'{"a":{},"weight_map":{"b":"c"},"a":{}}',
    "a member inside": b'{"metadata":{"x":[{"a":1,"a":1}]},"weight_map":{"b":"c"}}',
}


@pytest.mark.parametrize("spaces", [0, MAX_CONFIG])
@pytest.mark.parametrize("kind", REPEATED)
def test_a_name_that_stands_twice_is_told(tmp_path: Path, kind: str, spaces: int) -> None:
    with pytest.raises(RejectedError, match="no index") as caught:
        read_index(written(tmp_path, REPEATED[kind] + b" " * spaces))
    assert "a name stands twice: a" in str(caught.value) or (spaces and "inside" in kind)


@pytest.mark.parametrize("spaces", [0, MAX_CONFIG])
@pytest.mark.parametrize(
    "document",
    [
        b'{"metadata":{"a":"%b"},"weight_map":{"b":"c"}}',
        b'{"weight_map":{"%b":"c"}}',
        b'{"%b":{},"weight_map":{"b":"c"}}',
    ],
)
def test_text_that_utf8_cannot_hold(tmp_path: Path, document: bytes, spaces: int) -> None:
    with pytest.raises(RejectedError, match="no index"):
        read_index(written(tmp_path, document % b"\\ud800" + b" " * spaces))
    read_index(written(tmp_path, document % b"\\ud83d\\ude00" + b" " * spaces))


@pytest.mark.parametrize(
    ("said", "document"),
    [
        ("null", b"{}"),
        ("an object of nothing", b'{"weight_map":{}}'),
        ("a list", b'{"weight_map":["a"]}'),
        ("a number for a", b'{"weight_map":{"a":1}}'),
        ("a list", b"[]"),
    ],
)
def test_what_is_no_index_is_told_in_words(tmp_path: Path, said: str, document: bytes) -> None:
    with pytest.raises(RejectedError) as caught:
        read_index(written(tmp_path, document))
    assert caught.value.found == said


def test_a_large_index_that_ends_too_soon_or_too_late(tmp_path: Path) -> None:
    data = index({f"{at}{'a' * 90}": "b" for at in range(70_000)})
    assert len(data) > MAX_CONFIG
    for wrong in (data[:-1], data[: MAX_CONFIG + 5], data + b"}", data[:-3] + b"," + data[-3:]):
        with pytest.raises(RejectedError, match="no index"):
            read_index(written(tmp_path, wrong))


VARIANT = {
    "model.fp16-00001-of-00002.safetensors": shard("a"),
    "model.fp16-00002-of-00002.safetensors": shard("b"),
}
PLACES = {"a": min(VARIANT), "b": max(VARIANT)}


@pytest.mark.parametrize("name", ["model.safetensors.index.fp16.json", "model.safetensors.fp16.index.json"])
def test_the_index_of_a_variant_is_checked_like_any_other(tmp_path: Path, name: str) -> None:
    assert INDEX.fullmatch(name)
    assert broken(tmp_path / "a", {**VARIANT, name: index(PLACES, total_size=32)}) == []
    wrong = index({**PLACES, "a": max(VARIANT), "c": "gone"}, total_size=32)
    assert broken(tmp_path / "b", {**VARIANT, name: wrong}) == [
        ("model-index-shard-missing", name),
        ("model-index-wrong-shard", "a"),
    ]
    assert broken(tmp_path / "c", {**VARIANT, name: index(PLACES, total_size=31)}) == [("model-index-total-size", name)]


def test_an_index_of_something_else_binds_nothing(tmp_path: Path) -> None:
    files = {**VARIANT, "faiss.index.json": b"[]", "other.index.json": b'{"weight_map":{"a":[]}}'}
    assert broken(tmp_path, files) == [("model-index-missing", min(VARIANT))]


def test_numbers_from_zero_are_only_names_where_an_index_names_them(tmp_path: Path) -> None:
    files = {f"model-0000{at}-of-00002.safetensors": shard(name) for at, name in enumerate("ab")}
    places = dict(zip("ab", files, strict=True))
    assert broken(tmp_path / "a", {**files, INDEX_NAME: index(places)}) == []
    assert broken(tmp_path / "b", files) == [("model-shard-missing", "model-00002-of-00002.safetensors")]


def test_a_shard_that_its_index_does_not_name(tmp_path: Path) -> None:
    files = {f"model-0000{at}-of-00003.safetensors": shard(name) for at, name in enumerate("abb", 1)}
    places = dict(zip("ab", files, strict=False))
    assert broken(tmp_path, {**files, INDEX_NAME: index(places)}) == [("model-tensor-twice", "b")]


def test_a_tensor_in_two_shards_without_an_index(tmp_path: Path) -> None:
    files = {"model-00001-of-00002.safetensors": shard("a", "b"), "model-00002-of-00002.safetensors": shard("b")}
    assert broken(tmp_path / "a", files) == [
        ("model-index-missing", "model-00001-of-00002.safetensors"),
        ("model-tensor-twice", "b"),
    ]
    apart = {f"{at}/{name}": data for at, (name, data) in enumerate(files.items())}
    assert ("model-tensor-twice", "b") not in broken(tmp_path / "b", apart)
    alone = {"first.safetensors": shard("a"), "second.safetensors": shard("a")}
    assert broken(tmp_path / "c", alone) == []


def test_numbers_of_six_digits(tmp_path: Path) -> None:
    names = [f"model-{at:05}-of-000003.safetensors" for at in (1, 2, 3)]
    files = {name: shard(str(at)) for at, name in enumerate(names)}
    assert broken(tmp_path / "a", files) == [("model-index-missing", names[0])]
    two = {name: data for name, data in files.items() if name != names[1]}
    assert broken(tmp_path / "b", two) == [("model-shard-missing", names[1])]
    wide = {name.replace("-0000", "-00000", 1): data for name, data in two.items()}
    assert broken(tmp_path / "c", wide) == [("model-shard-missing", "model-000002-of-000003.safetensors")]


@pytest.mark.parametrize("name", ["README.md", INDEX_NAME, "config.json"])
def test_an_index_that_names_what_holds_no_weights(tmp_path: Path, name: str) -> None:
    places = {"a": "model.safetensors", "b": name}
    files = {"model.safetensors": shard("a"), "README.md": b"", "config.json": b"{}", INDEX_NAME: index(places)}
    assert broken(tmp_path, files) == [("model-index-foreign-file", INDEX_NAME)]


def test_an_index_of_nothing(tmp_path: Path) -> None:
    assert broken(tmp_path, {"model.safetensors": shard("a"), INDEX_NAME: index({})}) == [
        ("model-index-json", INDEX_NAME)
    ]


@pytest.mark.parametrize("name", ["../st/x.safetensors", "/x.safetensors", "..\\x.safetensors", "a/../../x"])
def test_an_index_that_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    files = {"st/model.safetensors": shard("a"), f"st/{INDEX_NAME}": index({"a": "model.safetensors", "b": name})}
    findings = examine(snapshot_of(write_folder(tmp_path, files))).findings
    assert [(each.rule.id, each.found) for each in findings] == [("model-index-outside", name)]


def test_files_that_may_lie_beside_an_index(tmp_path: Path) -> None:
    files = {**VARIANT, "model.safetensors.index.json": index(PLACES), "consolidated.safetensors": shard("c")}
    assert broken(tmp_path / "a", files) == []
    assert broken(tmp_path / "b", {**files, "inner/other.safetensors": shard("c")}) == []
    assert broken(tmp_path / "c", {**files, "model.safetensors": shard("a")}) == [
        ("model-index-unnamed-file", "model.safetensors")
    ]


def test_a_shard_that_is_given_alone_is_told_how_to_go_on(tmp_path: Path) -> None:
    findings = examine(snapshot_of(write_folder(tmp_path, {min(VARIANT): shard("a")}))).findings
    assert "give the folder" in findings[0].rule.advice
