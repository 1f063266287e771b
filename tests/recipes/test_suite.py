"""What of a suite decides what is measured of a sample, and so whether another has measured it already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recipes.evaluation.suite import find_suite

TEXT = {"data": "text.txt", "window": 32}
TASKS = {"tasks": ["t"], "include": "own", "fewshot": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("Some words.\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/t.yaml").write_text("task: t\n")
    return tmp_path


@pytest.mark.parametrize(
    ("suite", "other"),
    [
        (TEXT, {"name": "n", "description": "d", "retain": 0.5, "gate": ["accuracy"], "passages": 64}),
        (TASKS, {"name": "n", "description": "d", "retain": 0.5, "limit": 5}),
    ],
)
def test_names_and_thresholds_have_no_part_in_it(folder: Path, suite: dict[str, Any], other: dict[str, Any]) -> None:
    one, two = find_suite(suite, folder), find_suite({**suite, **other}, folder)
    assert one.digest != two.digest
    assert one.measures == two.measures


@pytest.mark.parametrize(
    ("suite", "other"),
    [
        (TEXT, {"window": 64}),
        (TASKS, {"fewshot": 2}),
        (TASKS, {"tasks": ["t", "u"]}),
        (TASKS, {"metrics": {"t": "acc"}}),
    ],
)
def test_what_is_asked_has(folder: Path, suite: dict[str, Any], other: dict[str, Any]) -> None:
    assert find_suite(suite, folder).measures != find_suite({**suite, **other}, folder).measures


def test_so_have_the_files_of_tasks(folder: Path) -> None:
    before = find_suite(TASKS, folder).measures
    (folder / "own/t.yaml").write_text("task: t\nmetric_list: []\n")
    assert find_suite(TASKS, folder).measures != before
