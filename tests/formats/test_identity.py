"""One digest of all that steers what a model says."""

from __future__ import annotations

from pathlib import Path

import pytest

from formats.checkpoint import Checkpoint
from formats.identity import identity
from formats.snapshot import ModelFile
from packer.sources import FolderSource
from registry.descriptor import Digest, digest_of
from registry.manifest import encode
from tests.parts import tiny


def of(folder: Path) -> Digest:
    return identity(Checkpoint(FolderSource(folder).fetch(), allow_code=True), digest)


def digest(file: ModelFile) -> Digest:
    return file.blob.descriptor.digest


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny.write_folder(tmp_path / "model", tiny.SHARDED)


def test_it_is_that_of_all_names_and_digests(model: Path) -> None:
    expected = digest_of(encode({name: digest_of(data) for name, data in sorted(tiny.SHARDED.items())}))
    assert of(model) == expected == identity(FolderSource(model).fetch(), digest)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        *((name, True) for name in ("vocab.txt", "words.txt", "vocab.md", "notice.py", "readme.json", "LICENSE.jinja")),
        *((name, True) for name in ("tokenizer.json", "chat_template.jinja", "a/b.py", "other.bin.index", "x")),
        *((name, False) for name in ("README.md", "readme", "LICENSE", "License.txt", "card.md", "a/plot.PNG")),
    ],
)
def test_documents_do_not_count(model: Path, name: str, counts: bool) -> None:
    before = of(model)
    tiny.write_folder(model, {name: b"{}"})
    there = of(model)
    (model / name).write_bytes(b"{ }")
    assert [before != there, there != of(model)] == [counts, counts]


def test_another_name_is_another_model(model: Path) -> None:
    (model / "added.json").write_text("{}")
    before = of(model)
    (model / "added.json").rename(model / "moved.json")
    assert of(model) != before
