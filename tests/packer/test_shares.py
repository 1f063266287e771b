"""Shares and times of a build file: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from packer.buildfile import parse_share, read_builds
from registry.errors import UsageError


@pytest.mark.parametrize(("text", "share"), [("0.95", 0.95), (0.9999, 0.9999), (1, 1.0), (".5", 0.5), (" 0.9 ", 0.9)])
def test_a_share(text: object, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("95", "0.95"),
        ("99.5", "0.995"),
        ("95%", "0.95"),
        ("0.5 %", "0.005"),
        ("1.5", ""),
        ("0", ""),
        ("-1", ""),
        ("x", ""),
    ],
)
def test_what_is_none_and_what_may_be_meant(text: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_share(text)
    hint = caught.value.hint
    assert hint == f"did you mean {meant}?" if meant else "0.95 is 95 %" in hint


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("evaluate: {retain: 95}", "evaluate.retain: this is nothing that can be retained"),
        ("evaluate: {budget: soon}", "evaluate.budget: this is no time"),
        ("shard: {max_size: large}", "shard.max_size: this is no size"),
    ],
)
def test_the_key_is_named(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "packer.yaml"
    path.write_text(f"source: model\n{lines}\n")
    with pytest.raises(UsageError) as caught:
        read_builds(path)
    assert (caught.value.what, caught.value.subject) == (said, str(path))
    assert caught.value.expected and caught.value.hint is not None


def test_a_suite_asks_for_no_more_than_all(tmp_path: Path) -> None:
    from recipes.evaluation.suite import find_suite

    with pytest.raises(UsageError, match="retain"):
        find_suite({"retain": 1.5}, tmp_path)
