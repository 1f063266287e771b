"""YAML whose texts are texts to every reader, by the types of YAML 1.1 (https://yaml.org/type/) and 1.2."""

from __future__ import annotations

import pytest
import yaml

from containers.ci.text import workflow_yaml
from containers.dumper import to_yaml
from containers.manifests.document import Document, render

BOOLEANS = "y Y yes Yes YES n N no No NO true True TRUE false False FALSE on On ON off Off OFF"
NOTHING = ["~", "null", "Null", "NULL", "<<", "="]
NUMBERS = "0 010 0o17 0x1f 0b101 1_000 +12 -1 1.5 .5 -.5 +.5e3 1. 1e3 1E3 1e+3 12e456789012 190:20:30 .inf -.INF .nan"
DATES = ["2001-12-14", "2001-1-1", "2001-12-14T21:59:43Z"]


@pytest.mark.parametrize("text", [*BOOLEANS.split(), *NOTHING, *NUMBERS.split(), *DATES])
def test_texts_that_look_like_something_else_are_quoted(text: str) -> None:
    """As values, as keys, in lists: in documents for clusters and in workflows."""
    document = {"key": text, text: "value", "list": [text]}
    expected = f"key: '{text}'\n'{text}': value\nlist:\n  - '{text}'\n"
    assert to_yaml(document) == expected
    assert render([], [Document(document)]).endswith(expected)
    assert workflow_yaml({"matrix": [text]}, {}, "").endswith(f"matrix:\n  - '{text}'\n")


@pytest.mark.parametrize("text", ["v1", "yet", "name", "sha256-12", "1.5.beta", "4-bit", "registry.example.com/a:v1"])
def test_other_texts_are_not(text: str) -> None:
    assert to_yaml({"key": text}) == f"key: {text}\n"


def test_documents_are_written_for_people() -> None:
    shared = ["ä" * 2000]
    document = {"z": "a\nb\n", "a": shared, "again": shared}
    text = to_yaml(document)
    assert text == f"z: |\n  a\n  b\na:\n  - {shared[0]}\nagain:\n  - {shared[0]}\n"
    assert yaml.safe_load(text) == document
