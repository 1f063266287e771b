"""The disk that an evaluation takes, and that it is asked for before anything is measured."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from formats.checkpoint import Checkpoint
from packer.buildfile import Evaluate
from packer.evaluate import ready_report, resolve_evaluate
from packer.quantize import workplace
from packer.sources import parse_source
from recipes.evaluation import evaluate as module
from recipes.evaluation.evaluate import evaluate
from recipes.evaluation.room import room
from recipes.evaluation.suite import find_suite
from registry.errors import SpaceError, UsageError
from registry.memory import Memory
from tests.parts.models import gguf
from tests.parts.small import cut_short

TOKENS, HIDDEN = 49152, 576


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(parse_source(str(cut_short(tmp_path_factory.mktemp("room") / "model"))).fetch())


def test_of_states_and_of_logits(model: Checkpoint) -> None:
    """llama.cpp shows no states, and a GGUF takes as much for a token as it knows tokens."""
    suite = find_suite({"data": __file__, "window": 100}, Path())
    assert room(model, suite, 10) == 1000 * (4 * HIDDEN + 48) + 4 * HIDDEN * TOKENS
    other = Checkpoint(parse_source(str(gguf())).fetch())
    assert room(other, suite, 10) == 1000 * (4 * TOKENS + 48)
    assert room(model, suite, 0) == room(model, find_suite("capitals", Path()), 10) == 0


def test_a_disk_that_is_too_full_is_known_before_a_model_is_loaded(
    model: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No disk here is full: that there is little room is what a double says, and no child may be started then."""
    usage = namedtuple("usage", "free")  # noqa: PYI024 - as the library has it

    def loaded(*_: Any) -> Any:
        raise AssertionError("a child was started")

    monkeypatch.setattr(module, "run_child", loaded)
    place = workplace(tmp_path / "cache", {}, Memory())
    how = resolve_evaluate(Evaluate(suite="fidelity"), place, "")
    assert how
    with pytest.raises(AssertionError, match="a child was started"):
        evaluate(model, model, how)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100_000_000))
    with pytest.raises(SpaceError) as caught:
        evaluate(model, model, how)
    assert str(caught.value.expected) == f"{room(model, how.suite, 128)} bytes free"


def test_a_report_that_cannot_be_written_is_known_first(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="no report can be written here") as caught:
        ready_report(tmp_path / "file/report")
    assert "--report" in caught.value.hint
    ready_report(tmp_path / "new/report")
    assert list((tmp_path / "new/report").iterdir()) == []
