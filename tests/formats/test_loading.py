"""Documents that programs parse as they load a model: those that are no JSON are told, large ones by their ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formats.examine import examine
from formats.loading import MAX_PARSED
from fuzz.subject import snapshot_of
from tests.models.make import ALIGNED
from tests.parts.tiny import write_folder

LARGE = json.dumps({"model": {"vocab": {f"\u0120{at}": at for at in range(200_000)}}}, indent=1).encode()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def broken(folder: Path, name: str, data: bytes) -> list[tuple[str, str]]:
    write_folder(folder, {"model.safetensors": ALIGNED, name: data})
    return [(finding.rule.id, finding.file) for finding in examine(snapshot_of(folder)).findings]


NAMES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    *("preprocessor_config.json", "text_encoder/config.json", "tokenizer/tokenizer.json"),
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [b"", b"{", b'{"a":1,}', b"[]", b"\xff", POINTER, b"[" * 9000, b"<html></html>"])
def test_what_is_no_json(tmp_path: Path, name: str, data: bytes) -> None:
    assert broken(tmp_path, name, data) == [("model-config-json", name)]


@pytest.mark.parametrize("name", NAMES)
def test_an_object(tmp_path: Path, name: str) -> None:
    assert broken(tmp_path, name, b'{"a": [1, 2, {"b": "\\u00e9"}]}\n') == []


def test_a_large_tokenizer(tmp_path: Path) -> None:
    assert len(LARGE) > MAX_PARSED
    assert broken(tmp_path, "tokenizer.json", LARGE + b"\n") == []
    for wrong in (LARGE[:-1000], b"\0" * len(LARGE), b"<html>" + LARGE, LARGE + b"\n</html>"):
        assert broken(tmp_path, "tokenizer.json", wrong) == [("model-config-json", "tokenizer.json")]


def test_other_documents_are_left_alone(tmp_path: Path) -> None:
    assert broken(tmp_path, "notes.json", b"[") == []


TWICE = b'{"auto_map":{"AutoModel":"m.M"},"a":[{"b":1}],"auto_map":{}}'
CONFIGS = (*NAMES, "config.json", "odd_config.json", "chat_template.json", "inner/adapter_config.json")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("spaces", [0, MAX_PARSED])
def test_a_name_that_stands_twice(tmp_path: Path, name: str, spaces: int) -> None:
    if spaces and not name.endswith(("config.json", "chat_template.json")):
        return  # of a large tokenizer the ends are seen
    write_folder(tmp_path, {"model.safetensors": ALIGNED, name: TWICE + b" " * spaces})
    (finding,) = examine(snapshot_of(tmp_path)).findings
    assert (finding.rule.id, finding.file, finding.found) == (
        "model-config-json",
        name,
        "a name stands twice: auto_map",
    )


def test_a_name_that_stands_twice_in_an_adapter(tmp_path: Path) -> None:
    assert broken(tmp_path, "adapter_config.json", b'{"r":1,"r":2}') == [
        ("model-adapter-config", "adapter_config.json")
    ]


def test_a_list_is_no_object(tmp_path: Path) -> None:
    write_folder(tmp_path, {"model.safetensors": ALIGNED, "tokenizer.json": b"[]"})
    (finding,) = examine(snapshot_of(tmp_path)).findings
    assert (finding.rule.what.startswith("this is no JSON object"), finding.found) == (True, "a list")


def test_configs_that_nobody_loads_may_be_anything(tmp_path: Path) -> None:
    assert broken(tmp_path, "odd_config.json", b"{") == []
