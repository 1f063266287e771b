"""Tiny models, each wrong in exactly one way: one for every rule, and those that fuzzing found."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from formats.checkpoint import Checkpoint
from formats.examine import examine
from formats.findings import Rule, Severity
from formats.reshard import shard
from formats.rules import KINDS, rules
from fuzz.mutant import Content
from fuzz.oracles import ORACLES
from fuzz.subject import snapshot_of
from packer.judge import Judgement
from packer.sources import parse_source
from registry.errors import ModelError
from tests.models import make
from tests.parts.command import ROOT

FOUND = ROOT / "tests/models"
EXPECTED: dict[str, str] = yaml.safe_load((FOUND / "expected.yaml").read_text())
RULES: dict[str, Rule] = {rule.id: rule for kind in KINDS if kind != "values" for rule in rules(kind)}


def test_every_rule_has_an_example() -> None:
    assert set(RULES) == set(make.EXAMPLES) | make.NO_FILES


@pytest.mark.parametrize("rule", sorted(set(make.EXAMPLES) - {"model-shard-oversize"}))
def test_an_example_breaks_its_rule_and_no_other(tmp_path: Path, rule: str) -> None:
    make.write(rule, tmp_path)
    report = examine(snapshot_of(tmp_path))
    assert {finding.rule.id for finding in report.findings} == {rule}, [each.to_json() for each in report.findings]
    assert report.ok == (RULES[rule].severity is Severity.WARNING)


def test_a_shard_that_cannot_be_small_enough(tmp_path: Path) -> None:
    make.write("model-shard-oversize", tmp_path)
    resharded = shard(Checkpoint(snapshot_of(tmp_path)), 1024)
    assert [(finding.rule.id, finding.tensor) for finding in resharded.findings] == [("model-shard-oversize", "large")]


def test_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(ModelError) as caught:
        parse_source(str(tmp_path)).fetch()
    judged = Judgement.failed(str(tmp_path), caught.value)
    assert [finding.rule.id for finding in judged.findings] == ["model-unreadable"]


@pytest.mark.parametrize("rule", sorted((*make.GGUF, *make.ONNX)))
def test_what_was_found_is_told_in_words(tmp_path: Path, rule: str) -> None:
    make.write(rule, tmp_path)
    for finding in examine(snapshot_of(tmp_path)).findings:
        assert not any(re.search(r"\bb'|^\(", text) for text in (finding.expected, finding.found)), finding.to_json()


@pytest.mark.parametrize("rule", sorted(make.EXAMPLES))
def test_examples_are_tiny(rule: str) -> None:
    files = make.EXAMPLES[rule]().values()
    sizes = [len(content.head if isinstance(content, Content) else content) for content in files]
    assert sum(sizes) < 8192 or rule == "safetensors-too-many-tensors"


def test_every_model_that_was_found_is_expected() -> None:
    assert {path.name for path in FOUND.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_fuzzing_found(name: str) -> None:
    report = examine(snapshot_of(FOUND / name))
    assert {finding.rule.id for finding in report.findings} == {EXPECTED[name]} - {"accepted"}


REFUSED = [name for name, rule in EXPECTED.items() if rule != "accepted" and name.partition("-")[0] in ORACLES]


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_refused_for_a_reference_is_refused_by_it(name: str) -> None:
    with pytest.raises(Exception, match=r"."):
        ORACLES[name.partition("-")[0]](FOUND / name)
