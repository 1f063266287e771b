"""The rules are complete: each has words for everything, an id of its own, and its place in docs/rules.md."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from formats.rules import KINDS, rules
from scripts.rules import document
from tests.parts.command import ROOT

EVERY = {rule.id: rule for kind in KINDS for rule in rules(kind)}


def test_the_document_is_that_of_the_code() -> None:
    assert (ROOT / "docs/rules.md").read_text() == document(), "run make docs"


def test_every_module_of_rules_is_a_kind() -> None:
    modules = {path.stem for path in (ROOT / "formats/rules").glob("*.py")} - {"__init__"}
    assert modules == set(KINDS)


@pytest.mark.parametrize("rule", EVERY.values(), ids=EVERY)
def test_a_rule_says_everything(rule: object) -> None:
    for member in ("id", "what", "why", "source", "advice"):
        text = getattr(rule, member)
        assert text and text == text.strip() and "\n" not in text, member
    assert getattr(rule, "why").endswith((".", ")"))


def test_ids_are_unique_and_begin_with_their_kind() -> None:
    ids = Counter(rule.id for kind in KINDS for rule in rules(kind))
    assert [name for name, count in ids.items() if count > 1] == []
    assert [rule.id for kind in KINDS for rule in rules(kind) if not rule.id.startswith(f"{kind}-")] == []


def test_every_rule_is_used() -> None:
    """A rule that no code names is a promise that nobody keeps."""
    named = {
        node.attr
        for path in _code()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and "rules" in node.value.id
    }
    constants = {
        target.id
        for path in (ROOT / "formats/rules").glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.startswith("_")
    }
    assert constants - named == set()


def _code() -> list[Path]:
    return [path for folder in ("formats", "packer", "recipes") for path in (ROOT / folder).glob("*.py")]
