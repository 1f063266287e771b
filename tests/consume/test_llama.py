"""llama.cpp's own tools beside ours: each reads what the other split, and the model says the same from every form."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from formats import gguf
from formats.examine import examine
from formats.gguf_split import regroup_gguf
from formats.snapshot import ModelFile
from packer.sources import parse_source
from registry.blob import FileBlob
from tests.parts import llama
from tests.parts.command import ROOT, run

PROMPT = "The capital of France is"
SPLIT_KEYS = {"split.no", "split.count", "split.tensors.count"}


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    run(ROOT / "scripts/llama.sh", llama.FOLDER)


@pytest.fixture(scope="module")
def original(gguf_model: Path) -> Path:
    (path,) = gguf_model.glob("*.gguf")
    return path


@pytest.fixture(scope="module")
def answer(original: Path) -> str:
    text = llama.generate(original, PROMPT)
    assert "Paris" in text
    assert len(text) == llama.CHARACTERS
    return text


def regroup(source: Path, max_size: int | None, target: Path) -> list[Path]:
    """The files that ours makes, in order."""
    report = examine(parse_source(str(source)).fetch())
    assert report.ok, report.findings
    (made,) = regroup_gguf(report.read, max_size)
    return write(made.files, target)


def write(files: Iterable[ModelFile], folder: Path) -> list[Path]:
    folder.mkdir()
    for file in files:
        with file.open() as source, (folder / file.name).open("wb") as target:
            shutil.copyfileobj(source, target)
    return sorted(folder.iterdir())


def content(path: Path) -> tuple[dict[str, bytes], dict[str, tuple[Any, ...]]]:
    """The metadata but for the split's keys, in bytes, and the tensors with theirs."""
    header = gguf.read_header(ModelFile.of(path.name, FileBlob.at(path)))
    data = path.read_bytes()
    pairs = {key: data[pair.start : pair.end] for key, pair in header.pairs.items() if key not in SPLIT_KEYS}
    tensors = {tensor.name: (tensor.dtype, tensor.shape, data[tensor.start : tensor.end]) for tensor in header.tensors}
    return pairs, tensors


@pytest.mark.parametrize("max_size", [10_000_000, 40_000_000])
def test_llama_merges_and_loads_our_parts(original: Path, answer: str, tmp_path: Path, max_size: int) -> None:
    """With ten million bytes the first part has no tensor: the first one is larger."""
    parts = regroup(original, max_size, tmp_path / "parts")
    assert len(parts) > 2
    assert llama.generate(parts[0], PROMPT) == answer
    llama.gguf_split("--merge", parts[0], tmp_path / "merged.gguf")
    assert content(tmp_path / "merged.gguf") == content(original)


def test_llama_loads_parts_of_another_alignment(original: Path, answer: str, tmp_path: Path) -> None:
    aligned = tmp_path / "aligned.gguf"
    aligned.write_bytes(with_alignment(original, 256))
    parts = regroup(aligned, 40_000_000, tmp_path / "parts")
    assert llama.generate(parts[0], PROMPT) == answer


def with_alignment(path: Path, alignment: int) -> bytes:
    """The model with one key more. The offsets of its tensors are multiples of 256 as they are."""
    header = gguf.read_header(ModelFile.of(path.name, FileBlob.at(path)))
    data = path.read_bytes()
    assert all((tensor.start - header.start) % alignment == 0 for tensor in header.tensors)
    key = b"general.alignment"
    pair = struct.pack("<Q", len(key)) + key + struct.pack("<II", gguf.UINT32, alignment)
    counts = struct.pack("<QQ", len(header.tensors), len(header.pairs) + 1)
    table = max(each.end for each in header.pairs.values())
    end = table + sum(24 + len(tensor.name) + 8 * len(tensor.shape) for tensor in header.tensors)
    head = data[:8] + counts + data[24:table] + pair + data[table:end]
    return head + bytes(-len(head) % alignment) + data[header.start :]


@pytest.mark.parametrize(
    "options", [["--split-max-size", "40M"], ["--split-max-tensors", "100", "--no-tensor-first-split"]]
)
def test_parts_of_llama_are_merged(original: Path, answer: str, tmp_path: Path, options: list[str]) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    llama.gguf_split("--split", *options, original, theirs / "model")
    assert len(list(theirs.iterdir())) > 2
    (merged,) = regroup(theirs, None, tmp_path / "merged")
    assert merged.name == "model.gguf"
    assert merged.read_bytes() == original.read_bytes()
    again = regroup(theirs, 10_000_000, tmp_path / "again")
    assert len(again) == 9
    assert llama.generate(again[0], PROMPT) == answer


def test_what_llama_merged_is_split_again(original: Path, tmp_path: Path) -> None:
    """Its merge leaves `split.count` 0 behind, which is no part of the model."""
    parts = regroup(original, 60_000_000, tmp_path / "parts")
    merged = tmp_path / "merged.gguf"
    llama.gguf_split("--merge", parts[0], merged)
    header = gguf.read_header(ModelFile.of(merged.name, FileBlob.at(merged)))
    assert header.pairs["split.count"].value == 0
    again = regroup(merged, 60_000_000, tmp_path / "again")
    assert [part.read_bytes() for part in again] == [part.read_bytes() for part in parts]
