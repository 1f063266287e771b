"""Pickles that a build converts: what comes out is what torch would have loaded, and nothing dangerous gets in."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from recipes.unpickle import VERSION
from tests.parts import tiny
from tests.parts.command import packer

CONFIG = b'{"architectures": ["TinyModel"], "model_type": "tiny"}'


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"PACKER_CACHE": str(tmp_path / "cache")}


def state(names: str) -> dict[str, torch.Tensor]:
    return {name: torch.randn(3, 5, dtype=torch.bfloat16) for name in names}


def build(model: Path, *more: str, env: dict[str, str], check: bool = True) -> tuple[int, str]:
    out = f"oci:{model.parent}/out"
    done = packer("build", model, "--to", out, "--base", "none", "--pickle", "convert", *more, env=env, check=check)
    if done.returncode == 0:
        packer("pull", out, model.parent / "pulled")
    return done.returncode, done.stderr


def test_shards_and_their_index_become_safetensors(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG})
    parts = [state("ab"), state("c")]
    names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"]
    for name, part in zip(names, parts, strict=True):
        torch.save(part, model / name)
    places = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index = {"metadata": {"total_size": 90}, "weight_map": places}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    build(model, env=environment)
    pulled = tmp_path / "pulled"
    assert sorted(path.name for path in pulled.iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    for path, part in zip(sorted(pulled.glob("*.safetensors")), parts, strict=True):
        loaded = safetensors.torch.load_file(path)
        assert loaded.keys() == part.keys()
        assert all(torch.equal(loaded[key], part[key]) for key in part)
    assert packer("validate", pulled).returncode == 0


def test_a_second_build_converts_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG})
    torch.save(state("ab"), model / "pytorch_model.bin")
    build(model, env=environment)
    (made,) = (tmp_path / "cache/converted").iterdir()
    before = made.stat().st_mtime_ns
    said = build(model, env=environment)[1]
    assert (made.stat().st_mtime_ns, "nothing to upload" in said) == (before, True)


def test_a_converted_file_that_another_version_made_is_not_taken(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG})
    torch.save(state("ab"), model / "pytorch_model.bin")
    digest = hashlib.sha256((model / "pytorch_model.bin").read_bytes()).hexdigest()
    converted = tmp_path / "cache/converted"
    tiny.write_folder(converted, {f"{digest}.safetensors": tiny.GOOD, f"{digest}-{VERSION - 1}.safetensors": tiny.GOOD})
    build(model, env=environment)
    assert (tmp_path / "pulled/model.safetensors").read_bytes() != tiny.GOOD
    assert f"{digest}-{VERSION}.safetensors" in {path.name for path in converted.iterdir()}


def test_a_converted_file_is_judged_like_any_other(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG})
    torch.save(state("ab"), model / "pytorch_model.bin")
    build(model, env=environment)
    (made,) = (tmp_path / "cache/converted").iterdir()
    os.truncate(made, made.stat().st_size - 1)
    code, said = build(model, env=environment, check=False)
    assert (code, "model.safetensors" in said) == (3, True)


def test_a_small_pickle_that_would_become_gigabytes(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG})
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, model / "pytorch_model.bin")
    code, said = build(model, env=environment, check=False)
    assert (code, "grows beyond" in said, "tensor 'a'" in said, "Traceback" in said) == (3, True, True, False)


def test_an_attack_is_refused_and_never_run(tmp_path: Path, environment: dict[str, str]) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {tmp_path}/owned",)

    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG, "pytorch_model.bin": pickle.dumps(Attack())})
    code, said = build(model, env=environment, check=False)
    assert (code, "pickle-dangerous" in said, "posix.system" in said) == (3, True, True)
    assert not (tmp_path / "owned").exists()


def test_what_is_no_state_dict_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"model.safetensors": tiny.GOOD})
    torch.save({"learning_rate": 0.1}, model / "training_args.bin")
    code, said = build(model, env=environment, check=False)
    assert (code, "training_args.bin" in said, "--include" in said) == (3, True, True)


def test_a_model_that_has_both(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"model.safetensors": tiny.GOOD})
    torch.save(state("ab"), model / "pytorch_model.bin")
    code, said = build(model, env=environment, check=False)
    assert (code, "has this file already" in said) == (3, True)
    assert build(model, "--include", "*.safetensors", env=environment)[0] == 0


def test_without_the_flag_it_is_refused_with_what_it_imports(tmp_path: Path) -> None:
    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG})
    torch.save(state("ab"), model / "pytorch_model.bin")
    done = packer("build", model, "--to", f"oci:{tmp_path}/out", check=False)
    assert (done.returncode, "torch._utils._rebuild_tensor_v2" in done.stderr) == (3, True)
    assert "pickle: convert" in done.stderr


def test_the_index_of_a_variant_is_converted_too(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG})
    name = "pytorch_model.fp16-00001-of-00001.bin"
    torch.save(state("ab"), model / name)
    (model / "pytorch_model.bin.index.fp16.json").write_text(json.dumps({"weight_map": dict.fromkeys("ab", name)}))
    build(model, env=environment)
    index = json.loads((tmp_path / "pulled/model.safetensors.index.fp16.json").read_text())
    assert index["weight_map"] == dict.fromkeys("ab", "model.fp16-00001-of-00001.safetensors")
    assert (tmp_path / "pulled/model.fp16-00001-of-00001.safetensors").exists()
    assert not list((tmp_path / "pulled").glob("*.bin*"))


def test_a_build_says_what_it_converted(tmp_path: Path, environment: dict[str, str]) -> None:
    model = tiny.write_folder(tmp_path / "m", {"config.json": CONFIG})
    torch.save(state("ab"), model / "pytorch_model.bin")
    said = build(model, env=environment)[1]
    assert "converted pytorch_model.bin -> model.safetensors" in said
    assert "warning" not in said
    told = packer(
        "build", model, "--until", "validate", "--pickle", "convert", "--json", "--to", "oci:out", env=environment
    )
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    facts = next(line for line in lines if line["event"] == "finished" and line["stage"] == "validate")
    (warning,) = facts["warnings"]
    assert (warning["rule"], warning["found"], warning["file"]) == (
        "pickle-converted",
        "pytorch_model.bin",
        "model.safetensors",
    )
