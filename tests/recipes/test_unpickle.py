"""Pickled weights become safetensors that hold the same bits, and nothing else is ever loaded."""

from __future__ import annotations

import ast
import codecs
import json
import os
import pickle
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from formats.findings import RejectedError
from formats.safetensors import MAX_HEADER
from recipes.unpickle import _ENVIRONMENT, SMALL, Converted, convert, most_bytes
from registry.errors import ModelError, SpaceError, UsageError
from tests.parts.models import CACHE

REAL = CACHE / "pickle"


class Attack:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """The same names with the same dtypes, shapes and bytes."""

    def bits(tensor: Any) -> tuple[Any, ...]:
        return tensor.dtype, tensor.shape, tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()

    return {key: bits(value) for key, value in one.items()} == {key: bits(value) for key, value in other.items()}


def compressed(source: Path, target: Path) -> None:
    """The same archive with its members deflated."""
    with zipfile.ZipFile(source) as stored, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in stored.namelist():
            archive.writestr(name, stored.read(name))


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["tiny.pth", "alex.pth", "squeeze.pth", "vgg.pth"])
def test_real_weights_are_what_torch_loads(tmp_path: Path, name: str) -> None:
    target = tmp_path / "model.safetensors"
    done = convert(REAL / name, target)
    theirs = torch.load(REAL / name, weights_only=True, map_location="cpu")
    assert same(load_file(target), theirs)
    assert done == Converted(len(theirs), sum(tensor.nbytes for tensor in theirs.values()))
    assert left_over(tmp_path) == ["model.safetensors"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("modern", [True, False])
def test_tensors_of_every_kind(tmp_path: Path, modern: bool) -> None:
    whole = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    tensors = {
        "nan": torch.tensor([float("nan"), -0.0, float("inf")], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
        "tied": whole,
        "tied-again": whole,
        "part": whole[1:],
        "turned": whole.t(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    if modern:  # torch does not load its own old format with these
        tensors["eight"] = torch.arange(8, dtype=torch.uint8).view(torch.float8_e4m3fn)
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "a.pt", _use_new_zipfile_serialization=modern)
    assert convert(tmp_path / "a.pt", tmp_path / "a.safetensors").tensors == len(tensors)
    assert same(load_file(tmp_path / "a.safetensors"), tensors)


def test_an_archive_that_was_compressed_again(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(10_000)}
    torch.save(tensors, tmp_path / "stored.pt")
    compressed(tmp_path / "stored.pt", tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert same(load_file(tmp_path / "a.safetensors"), tensors)


BOMBS = {
    "expanded": ({"a": torch.zeros(1).expand(1 << 30)}, "4 bytes, as are stored", f"{4 << 30} bytes of tensor 'a'"),
    "overflow": ({"a": torch.zeros(1).expand(1 << 62)}, "4 bytes, as are stored", f"{4 << 62} bytes of tensor 'a'"),
    "overlapping": (
        {"a": torch.zeros(300_000).as_strided((200_000, 100_000), (1, 1))},
        "1200000 bytes",
        f"{4 * 200_000 * 100_000} bytes of tensor 'a'",
    ),
    "parameter": ({"a": torch.nn.Parameter(torch.zeros(1)[:, None].expand(1, 1 << 30))}, "4 bytes", "tensor 'a'"),
    "many-names": (
        dict.fromkeys(map(str, range(100)), torch.zeros(1 << 18)),
        f"at most {SMALL} bytes of tensors",
        f"{SMALL + (1 << 20)} bytes up to tensor '16'",
    ),
}


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("kind", BOMBS)
def test_a_file_that_would_grow_is_refused(tmp_path: Path, kind: str, modern: bool) -> None:
    value, expected, found = BOMBS[kind]
    torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=modern)
    with pytest.raises(ModelError, match="grows beyond") as caught:
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert expected in str(caught.value.expected)
    assert found in str(caught.value.found)
    assert (caught.value.subject, caught.value.exit_code, "--include" in caught.value.hint) == ("a.pt", 3, True)
    assert left_over(tmp_path) == ["a.pt"]


def test_an_archive_that_inflates_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(SMALL // 4)}, tmp_path / "stored.pt")
    compressed(tmp_path / "stored.pt", tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    with pytest.raises(ModelError, match="grows beyond") as caught:
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert caught.value.expected == f"at most {SMALL} bytes unpacked"
    assert left_over(tmp_path) == ["a.pt", "stored.pt"]


def test_a_pickle_that_fills_the_memory_is_refused(tmp_path: Path) -> None:
    """Text that is twice as long as the text before it, thirty-two times."""
    doubled: Any = b"a"
    for _ in range(32):
        doubled = Attack(codecs.encode, doubled, "hex")
    torch.save({"a": torch.zeros(1), "b": doubled}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="grows beyond") as caught:
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert "bytes of memory" in str(caught.value.expected)
    assert left_over(tmp_path) == ["a.pt"]


@pytest.mark.parametrize(("more", "fits"), [(0, True), (1, False)])
def test_what_is_written_is_bounded_whatever_was_counted(tmp_path: Path, more: int, fits: bool) -> None:
    program = (
        "import sys; from recipes.unpickle import _limit; _limit(int(sys.argv[1]), 60);"
        "open(sys.argv[2], 'wb').truncate(int(sys.argv[3]))"
    )
    sizes = str(SMALL), str(tmp_path / "a"), str(SMALL + MAX_HEADER + more)
    done = subprocess.run([sys.executable, "-c", program, *sizes], capture_output=True, check=False)
    assert (done.returncode == 0, b"File too large" in done.stderr) == (fits, not fits)


@pytest.mark.parametrize("lower", ["CPU", "FSIZE", "DATA"])
def test_a_limit_that_is_lower_already_drops_no_other(lower: str) -> None:
    """The bounds of a process that was given a lower one before."""
    program = (
        "import json, resource, sys; from recipes.unpickle import _limit;"
        f"given = 50 if {lower!r} == 'CPU' else 2 << 30 if {lower!r} == 'DATA' else 50 << 20;"
        f"resource.setrlimit(resource.RLIMIT_{lower}, (given, given)); memory = _limit(1 << 30, 3600);"
        "kinds = resource.RLIMIT_CORE, resource.RLIMIT_CPU, resource.RLIMIT_FSIZE, resource.RLIMIT_DATA;"
        "print(json.dumps([memory, given, *(resource.getrlimit(kind)[1] for kind in kinds)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    memory, given, core, cpu, size, data = json.loads(done.stdout)
    assert core == 0
    assert cpu == (given if lower == "CPU" else 3600)
    assert size == (given if lower == "FSIZE" else (1 << 30) + MAX_HEADER)
    assert (memory, data) == (0, given) if lower == "DATA" else memory == data > 3 << 30


def test_weights_that_are_tied_stay_within_the_bound(tmp_path: Path) -> None:
    """As in T5: one embedding under four names, more than half of the model."""
    embedding = torch.randn(6, 1 << 20)
    names = ("shared", "encoder.embed_tokens", "decoder.embed_tokens", "lm_head")
    tensors = {**dict.fromkeys(names, embedding), "layer": torch.randn(1 << 20)}
    torch.save(tensors, tmp_path / "a.pt")
    assert sum(tensor.nbytes for tensor in tensors.values()) < most_bytes((tmp_path / "a.pt").stat().st_size)
    assert convert(tmp_path / "a.pt", tmp_path / "a.safetensors").tensors == len(tensors)
    assert same(load_file(tmp_path / "a.safetensors"), tensors)


UNFIT = {
    "list": ([torch.zeros(1)], "builtins.list"),
    "number": ({"a": torch.zeros(1), "step": 3}, "'step' is no tensor"),
    "key": ({5: torch.zeros(1)}, "'5' is no tensor"),
    "nested": ({"model": {"a": torch.zeros(1), "b": {"c": torch.zeros(1)}}}, "'b' is no tensor"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "torch.sparse_coo"),
    "complex": ({"a": torch.zeros(1, dtype=torch.complex128)}, "complex128"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_is_no_map_of_tensors_is_refused(tmp_path: Path, kind: str) -> None:
    value, said = UNFIT[kind]
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert said in str(caught.value)
    assert (caught.value.subject, caught.value.exit_code) == ("a.pt", 3)
    assert left_over(tmp_path) == ["a.pt"]


def test_an_attack_is_refused_and_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    attack = Attack(os.system, f"touch {marker}")
    torch.save({"a": torch.zeros(1), "b": attack}, tmp_path / "a.pt")
    with pytest.raises(RejectedError) as caught:
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert caught.value.findings[0].rule.id == "pickle-dangerous"
    assert left_over(tmp_path) == ["a.pt"]
    pickle.loads(pickle.dumps(attack))
    assert marker.exists()


def test_code_that_picklescan_does_not_know_is_not_run_either(tmp_path: Path) -> None:
    """torch loads what is on its own list of what weights need, and nothing else."""
    attack = Attack(tempfile.mkdtemp, "", "made", str(tmp_path))
    torch.save({"a": torch.zeros(1), "b": attack}, tmp_path / "a.pt")
    with pytest.raises(ModelError, match="cannot be converted") as caught:
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert not isinstance(caught.value, RejectedError)
    assert "tempfile.mkdtemp was not an allowed global" in str(caught.value.found)
    assert left_over(tmp_path) == ["a.pt"]
    pickle.loads(pickle.dumps(attack))
    assert left_over(tmp_path) != ["a.pt"]


@pytest.mark.parametrize(
    ("name", "rule"), [("silero_vad.jit", "pickle-torchscript"), ("LICENSE.lpips", ""), ("raw.pt", "pickle-by-name")]
)
def test_what_is_no_pickle_of_tensors(tmp_path: Path, name: str, rule: str) -> None:
    source = REAL / name if name != "raw.pt" else tmp_path / name
    if name == "raw.pt":
        source.write_bytes(b"raw")
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "a.safetensors")
    assert rule in str(caught.value)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def library(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """A torch of our own in place of the real one, in the child alone."""
    (folder / "torch.py").write_text(text)
    monkeypatch.setitem(_ENVIRONMENT, "PYTHONPATH", str(folder))


def test_without_torch(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, tmp_path, "raise ImportError('no torch here')")
    with pytest.raises(UsageError) as caught:
        convert(weights, tmp_path / "a.safetensors")
    assert "packer[convert]" in str(caught.value)


def test_a_child_that_is_killed(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(SpaceError, match="want of memory"):
        convert(weights, tmp_path / "a.safetensors")


def test_a_child_that_fails(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, tmp_path, "raise SystemExit('out of order')")
    with pytest.raises(ModelError) as caught:
        convert(weights, tmp_path / "a.safetensors")
    assert "out of order" in str(caught.value.found)


def test_a_child_that_hangs(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library(monkeypatch, tmp_path, "import time; time.sleep(600)")
    with pytest.raises(ModelError, match="too long"):
        convert(weights, tmp_path / "a.safetensors", timeout=2)


def test_a_disk_that_is_too_full(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    os.truncate(tmp_path / "a.pt", 8 << 40)  # a hole in the file takes no space
    with pytest.raises(SpaceError, match="too full"):
        convert(tmp_path / "a.pt", tmp_path / "a.safetensors")


def test_the_child_has_nothing_of_the_environment_and_no_current_folder(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "DATABASE_URL", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        monkeypatch.setenv(name, "hunter2")
    with monkeypatch.context() as patched:
        library(patched, tmp_path, "import os; raise SystemExit(repr(sorted(os.environ)))")
        with pytest.raises(ModelError) as caught:
            convert(weights, tmp_path / "a.safetensors")
    # Python sets LC_CTYPE itself where no locale is given
    assert set(ast.literal_eval(str(caught.value.found))) - {"LC_CTYPE"} == {"OMP_NUM_THREADS", "PATH", "PYTHONPATH"}
    monkeypatch.chdir(tmp_path)
    assert convert(weights, tmp_path / "a.safetensors").tensors == 1


def test_a_name_is_given_when_the_bytes_are_on_the_disk(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, order = tmp_path / "a.safetensors", []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        order.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), target.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    convert(weights, target)
    assert order == [(False, False), (True, True)]


def test_torch_is_not_loaded_here() -> None:
    done = os.spawnv(
        os.P_WAIT,
        sys.executable,
        [sys.executable, "-c", "import recipes.unpickle, sys; sys.exit('torch' in sys.modules)"],
    )
    assert done == 0
