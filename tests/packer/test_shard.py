"""`packer shard` and `packer merge` as a user runs them, and sharding as a stage of a build."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from packer.buildfile import parse_size
from registry.errors import UsageError
from registry.folder import STAGING
from tests.parts import tiny
from tests.parts.command import PACKER, packer
from tests.parts.models import digests


def test_there_and_back_and_the_same_bytes_every_time(safetensors_model: Path, tmp_path: Path) -> None:
    done = packer("shard", safetensors_model, tmp_path / "a", "--max-size", "50MB")
    assert "6 weight files, the largest of 54.0 MiB" in done.stderr
    assert "model-shard-oversize in model-00001-of-00006.safetensors model.embed_tokens.weight" in done.stderr
    assert done.stdout.split()[-1].endswith("model.safetensors.index.json")
    packer("shard", safetensors_model, tmp_path / "b", "--max-size", "50MB")
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    packer("merge", tmp_path / "a", tmp_path / "whole")
    assert not list((tmp_path / "whole").glob("*-of-*"))
    assert (tmp_path / "whole/model.safetensors").stat().st_size > 269_000_000
    packer("shard", tmp_path / "whole", tmp_path / "c", "--max-size", "50MB")
    assert digests(tmp_path / "c") == digests(tmp_path / "a")
    kept = {name for name in digests(safetensors_model) if not name.startswith("model.")}
    assert {name: digests(tmp_path / "c")[name] for name in kept} == {
        name: digests(safetensors_model)[name] for name in kept
    }


def test_a_gguf_there_and_back(gguf_model: Path, tmp_path: Path) -> None:
    packer("shard", gguf_model, tmp_path / "a", "--max-size", "30MB", "--include", "*.gguf")
    assert len(list((tmp_path / "a").glob("*-of-00005.gguf"))) == 5
    packer("merge", tmp_path / "a", tmp_path / "b")
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert digests(tmp_path / "b")[name] == digests(gguf_model)[name]


def test_a_second_run_writes_nothing(tmp_path: Path) -> None:
    model = tiny.write_folder(tmp_path / "m", {"model.safetensors": tiny.GOOD})
    said = [json.loads(packer("shard", model, tmp_path / "o", "--max-size", "100", "--json").stdout.split("\n")[-2])]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").iterdir()}
    said += [json.loads(packer("shard", model, tmp_path / "o", "--max-size", "100", "--json").stdout.split("\n")[-2])]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "o").iterdir()} == before
    assert said[0] == said[1]
    assert [Path(path).name for path in said[0]["files"]][-1] == "model.safetensors.index.json"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_and_run_again(tmp_path: Path, number: signal.Signals) -> None:
    model = tmp_path / "m" / "model.safetensors"
    model.parent.mkdir()
    names, size = [f"t{at}" for at in range(8)], 128 << 20
    header = {name: tiny.tensor(at * size, (at + 1) * size) for at, name in enumerate(names)}
    model.write_bytes(tiny.safetensors_bytes(header, b""))
    start = model.stat().st_size
    with model.open("r+b") as file:
        file.truncate(start + 8 * size)
        for at in range(8):
            file.seek(start + at * size)
            file.write(bytes([at + 1]) * 4096)
    command: list[str | Path] = [PACKER, "shard", model.parent, tmp_path / "o", "--max-size", "130MiB"]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed)
    staged = tmp_path / "o" / STAGING
    while not (staged / "model-00003-of-00008.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else -9)
    assert [path.name for path in (tmp_path / "o").iterdir()] == [STAGING]
    whole = {path.name: path.stat().st_mtime_ns for path in staged.iterdir() if path.stat().st_size > size}
    assert whole
    packer("shard", model.parent, tmp_path / "o", "--max-size", "130MiB")
    for name, when in whole.items():
        assert (tmp_path / "o" / name).stat().st_mtime_ns == when
    assert packer("validate", tmp_path / "o").returncode == 0
    packer("shard", model.parent, tmp_path / "undisturbed", "--max-size", "130MiB")
    assert digests(tmp_path / "o") == digests(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("m", "m/inside", "--max-size", "1GB"), "inside the model"),
        (("m", "full", "--max-size", "1GB"), "holds something else"),
        (("m", "o", "--max-size", "many"), "no size"),
        (("nowhere", "o", "--max-size", "1GB"), "no such model"),
    ],
)
def test_what_is_asked_wrongly(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    tiny.write_folder(tmp_path / "m", {"model.safetensors": tiny.GOOD})
    tiny.write_folder(tmp_path / "full", {"mine.txt": b"precious"})
    done = packer("shard", *arguments, cwd=tmp_path, check=False)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr
    assert (tmp_path / "full/mine.txt").read_bytes() == b"precious"


def test_a_wrong_model_is_not_sharded(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "m", {"model.safetensors": tiny.GOOD[:-1]})
    done = packer("shard", tmp_path / "m", tmp_path / "o", "--max-size", "1GB", check=False)
    assert (done.returncode, "safetensors-truncated" in done.stderr) == (3, True)
    assert not (tmp_path / "o").exists()


def test_a_size_that_lacks_its_unit(gguf_model: Path, tmp_path: Path) -> None:
    done = packer("shard", gguf_model, tmp_path / "o", "--max-size", "10", check=False)
    assert (done.returncode, "10GiB" in done.stderr, (tmp_path / "o").exists()) == (2, True, False)
    done = packer("shard", gguf_model, tmp_path / "o", "--max-size", "999999", check=False)
    assert (done.returncode, "give a larger size" in done.stderr) == (2, True)


def test_the_target_is_looked_at_before_the_model(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path / "m", {"model.safetensors": tiny.GOOD[:-1], "config.json": b"{}"})
    tiny.write_folder(
        tmp_path / "o", {"config.json": b"{}", f"{STAGING}/a": b"", "model-00001-of-00002.safetensors": b""}
    )
    for command in (("shard", "--max-size", "1GB"), ("merge",)):
        done = packer(command[0], "m", "o", *command[1:], cwd=tmp_path, check=False)
        assert (done.returncode, "safetensors-truncated" in done.stderr) == (3, True)
        (tmp_path / "o/mine.txt").write_bytes(b"precious")
        done = packer(command[0], "m", "o", *command[1:], cwd=tmp_path, check=False)
        assert (done.returncode, "mine.txt" in done.stderr) == (2, True)
        (tmp_path / "o/mine.txt").unlink()


def test_as_a_stage_of_a_build_it_gives_the_same_files(safetensors_model: Path, tmp_path: Path) -> None:
    (tmp_path / "packer.yaml").write_text(
        f"source: {safetensors_model}\nshard: {{max_size: 60MB}}\npublish: {{to: 'oci:out:v1', base: none}}\n"
    )
    done = packer("build", tmp_path / "packer.yaml", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    shard = next(event for event in events if event["event"] == "finished" and event["stage"] == "shard")
    assert len(shard["weights"]) == 5
    packer("pull", f"oci:{tmp_path}/out:v1", tmp_path / "pulled")
    packer("shard", safetensors_model, tmp_path / "sharded", "--max-size", "60MB")
    assert digests(tmp_path / "pulled") == digests(tmp_path / "sharded")
    again = packer("build", safetensors_model, "--max-size", "60MB", "--base", "none", "--to", f"oci:{tmp_path}/out:v1")
    assert "nothing to upload" in again.stderr


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("5GB", 5 * 10**9), ("1.5 MiB", 3 << 19), ("17", 17), ("500mb", 500_000_000), ("2k", 2000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "GiB", "-1", "4 GiB x", "1e9", "4IB", "9" * 400])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="no size"):
        parse_size(text)
