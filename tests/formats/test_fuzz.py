"""Hostile files: mutants and giants of every format do no harm, and nothing passes that a reference library refuses.

`python -m fuzz.run` does the same at length.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuzz import documents, onnx, pickle
from fuzz.child import Child
from fuzz.examiner import Examiner, faults
from fuzz.giants import giants
from fuzz.lane import FORMATS, Lane
from fuzz.mutant import Content, Mutant
from tests.parts.command import run

SEED = 1
MUTANTS = 500
GIANTS = giants()

ACCEPTED = frozenset(
    (
        *("safetensors-most-tensors", "safetensors-nothing-but-spaces", "safetensors-long-entries"),
        *("gguf-most-keys", "gguf-most-tensors", "onnx-fifty-thousand-nodes", "onnx-fifty-thousand-initializers"),
        *("onnx-constant-payload", "onnx-constant-payloads"),
    )
)
"""Giants that are right: large, and within every bound."""


@pytest.fixture(scope="module")
def examiner() -> Iterator[Examiner]:
    """A process that has examined something of every kind."""
    warm = [*documents.seeds()[:3], *onnx.seeds()[:6], *pickle.seeds()[:10]]
    with Examiner(warm) as examiner:
        yield examiner


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make fuzz` has the processors for itself, and these tests do not: what is slow here never ends."""
    monkeypatch.setattr("fuzz.examiner.SECONDS", 30)


@pytest.mark.parametrize("name", FORMATS)
def test_mutants(name: str) -> None:
    with Lane(name, SEED) as lane:
        tally = lane.run(range(MUTANTS))
    assert not tally.failures, "\n".join(map(str, tally.failures))
    assert tally.accepted > MUTANTS / 50
    assert len(tally.rules) >= 5


@pytest.mark.parametrize("name", FORMATS)
def test_a_mutant_can_be_made_again(name: str) -> None:
    with Lane(name, SEED) as first, Lane(name, SEED) as second:
        assert [first.mutant(number) for number in range(20)] == [
            second.mutant(number) for number in reversed(range(20))
        ][::-1]


@pytest.mark.parametrize("name", GIANTS)
def test_giants(examiner: Examiner, name: str) -> None:
    _, said = examiner.examine(Mutant(GIANTS[name](), name))
    assert not faults(said), (faults(said), said)
    if name in ACCEPTED:
        assert said["accepted"], said["rules"]


def test_a_run_and_one_of_its_mutants(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fuzz.run", "safetensors", "--seed", "7"]
    done = run(*command, "--mutants", "300", "--workers", "2")
    assert "safetensors: 300 mutants" in done.stdout
    assert "300 mutants of seed 7" in done.stdout
    run(*command, "--only", "5", "--keep", tmp_path / "kept")
    with Lane("safetensors", 7) as lane:
        lane.mutant(5).write(tmp_path)
    assert (tmp_path / "kept/model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_a_reader_that_fails_is_seen(examiner: Examiner) -> None:
    folder, said = examiner.examine(Mutant({"model.safetensors": Content(b"")}, "empty"))
    assert said["rules"] == ["safetensors-header-length"]
    oracle = Child("fuzz.oracles", "gguf")
    answers = (oracle.ask(str(folder), 30) for _ in range(100))  # the first may be late: the library is imported
    assert "StopIteration" in next(answer for answer in answers if "refused" in answer)["refused"]
    oracle.close()
    dead = Child("fuzz.no_such_module")
    assert faults(dead.ask("anything", 30)) == [("lost", "its process died with 1")]
    hung = Child("fuzz.oracles", "safetensors")
    assert faults(hung.ask(str(folder), 0.0)) == [("lost", "no answer after 0.0 s")]
    assert not hung.running
    said = {"seconds": 31.0, "memory": 70 << 10, "crash": "Traceback"}
    assert [kind for kind, _ in faults(said)] == ["crash", "slow", "memory"]
