"""`packer validate` as a user and as a program meet it."""

from __future__ import annotations

import json
import os
from math import nan
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

from formats.findings import RejectedError
from packer.sources import parse_source
from packer.validate import Policy, validate
from tests.models import compressed
from tests.parts import tiny
from tests.parts.command import ROOT, packer
from tests.parts.tiny import GOOD, GOOD_GGUF

KEYS = {"rule", "severity", "file", "tensor", "expected", "found", "advice"}


def lines(*arguments: str | Path) -> tuple[int, list[dict[str, Any]]]:
    done = packer("validate", *arguments, "--json", check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_many_paths_are_judged_one_by_one(tmp_path: Path) -> None:
    files = {
        "a.safetensors": GOOD,
        "b.safetensors": GOOD[:-1],
        "c.gguf": GOOD_GGUF,
        "d.onnx": b"",
        "e.bin": b"\x80\x04.",
    }
    tiny.write_folder(tmp_path, files)
    code, said = lines(*(tmp_path / name for name in files))
    assert code == 3
    assert [Path(one["path"]).name for one in said] == list(files)
    assert [one["ok"] for one in said] == [True, False, True, False, False]
    assert [one["format"] for one in said] == ["safetensors", "safetensors", "gguf", "onnx", None]
    for one in said:
        assert {"path", "ok", "format", "findings"} <= one.keys()
        assert all(
            finding.keys() == KEYS and all(isinstance(v, str) for v in finding.values()) for finding in one["findings"]
        )
        assert bool(one["findings"]) != one["ok"]
    assert said[1]["findings"][0]["rule"] == "safetensors-truncated"


def test_exit_codes(tmp_path: Path) -> None:
    good = tiny.write_folder(tmp_path / "good", {"model.safetensors": GOOD})
    bad = tiny.write_folder(tmp_path / "bad", {"model.safetensors": GOOD[:-1]})
    code, judged = lines(good)
    assert (code, judged[0].pop("model")["tensor_count"]) == (0, 2)
    assert judged[0] == {"path": str(good), "ok": True, "format": "safetensors", "findings": []}
    assert lines(good, good)[0] == 0
    assert lines(good, bad)[0] == 3
    assert lines(tmp_path / "nowhere")[0] == 2
    code, said = lines(tmp_path / "nowhere", good, bad)
    assert (code, [one["ok"] for one in said]) == (3, [False, True, False])
    assert said[0]["error"]["what"] == "there is no such file or folder"
    assert lines("127.0.0.1:1/a/b:c")[0] == 5


def test_a_model_that_is_no_model_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").symlink_to(tmp_path / "gone")
    code, said = lines(tmp_path / "m")
    assert (code, said[0]["findings"][0]["rule"]) == (3, "model-unreadable")


def test_a_file_that_may_not_be_read_is_no_defect(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"odd\xff.safetensors")).write_bytes(GOOD)
    code, said = lines(tmp_path)
    assert (code, said[0]["ok"]) == (3, False)


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 9,
        "auto_map": {"AutoModel": "m.M"},
    }
    save_file({"model.layers.0.a": torch.zeros(2)}, tmp_path / "model.safetensors")
    tiny.write_folder(tmp_path, {"config.json": json.dumps(config).encode(), "m.py": b"pass", "x.pkl": b"\x80\x04N."})
    rules = {finding["rule"] for finding in lines(tmp_path)[1][0]["findings"]}
    assert rules == {
        "model-config-layers",
        "model-config-embedding-missing",
        "model-config-head-missing",
        "code-auto-map",
        "code-file",
        "pickle-by-content",
    }


def test_code_is_always_told_and_allowed_on_request(tmp_path: Path) -> None:
    model = tiny.write_folder(tmp_path / "m", {"model.safetensors": GOOD, "modeling.py": b"print('hello')"})
    code, said = lines(model)
    assert (code, [finding["severity"] for finding in said[0]["findings"]]) == (3, ["error"])
    code, said = lines(model, "--remote-code", "allow")
    assert (code, said[0]["ok"], said[0]["findings"][0]["severity"]) == (0, True, "warning")
    refused = packer("build", model, "--to", f"oci:{tmp_path}/out", check=False)
    assert (refused.returncode, "code-file" in refused.stderr) == (3, True)
    built = packer("build", model, "--to", f"oci:{tmp_path}/out", "--remote-code", "allow")
    assert "1 warning, such as code-file in modeling.py" in built.stderr


def test_deep(tmp_path: Path) -> None:
    bad = torch.ones(10)
    bad[7] = float("nan")
    save_file({"good": torch.arange(4.0), "bad": bad}, tmp_path / "model.safetensors")
    assert lines(tmp_path)[0] == 0
    code, said = lines(tmp_path, "--deep")
    assert (code, [finding["rule"] for finding in said[0]["findings"]]) == (3, ["values-nan"])
    assert said[0]["findings"][0]["found"] == "1, the first at 7 of 10"
    values = {value["tensor"]: value for value in said[0]["values"]}
    assert values["good"] == {
        "tensor": "good", "file": "model.safetensors", "dtype": "F32", "count": 4, "nan": 0, "inf": 0, "zeros": 1,
        "min": 0.0, "max": 3.0, "mean": 1.5, "std": pytest.approx(1.25**0.5), "first_bad": None,
    }  # fmt: skip
    shown = packer("validate", tmp_path, "--deep", check=False).stdout
    assert "14 values read: 1 NaN, 0 Inf, 0 tensors of nothing but zeros" in shown


def test_deep_of_what_is_far_away_is_not_fetched_unasked() -> None:
    done = packer("validate", "127.0.0.1:1/a/b:c", "--deep", check=False)
    assert (done.returncode, "packer pull 127.0.0.1:1/a/b:c DIR" in done.stdout) == (2, True)


def test_onnx_inputs_and_outputs_are_in_the_report() -> None:
    model = ROOT / ".cache/models/real/magika/model.onnx"
    graph = lines(model)[1][0]["graphs"]["model.onnx"]
    assert graph["inputs"] and graph["outputs"] and graph["opsets"]["ai.onnx"]
    shown = packer("validate", model).stdout
    assert "inputs " in shown and graph["outputs"][0] in shown


def test_people_see_few_of_many_alike(tmp_path: Path) -> None:
    tensors = {f"layer.{at}.weight": torch.zeros(2, dtype=torch.float8_e4m3fn) for at in range(40)}
    save_file(tensors, tmp_path / "model.safetensors")
    config = {"model_type": "tiny", "quantization_config": {"quant_method": "compressed-tensors"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shown = packer("validate", tmp_path, check=False).stdout
    assert "REFUSED, 40 errors, 0 warnings" in shown
    assert "and 35 more like it; --json has them" in shown
    assert shown.count("no scale beside it") == 5
    assert len(lines(tmp_path)[1][0]["findings"]) == 40


def test_names_that_would_move_the_cursor_are_made_harmless(tmp_path: Path) -> None:
    header = {"a\x1b[31m\n": tiny.tensor(0, 8, "F99")}
    (tmp_path / "model.safetensors").write_bytes(tiny.safetensors_bytes(header, bytes(8)))
    shown = packer("validate", tmp_path, check=False).stdout
    assert "\x1b" not in shown
    assert lines(tmp_path)[1][0]["findings"][0]["tensor"].startswith("a")


def test_an_adapter_is_called_one(tmp_path: Path) -> None:
    tensors = {f"base_model.model.q_proj.lora_{side}.weight": torch.ones(4, 4) for side in "AB"}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"r": 4, "target_modules": ["q_proj"], "base_model_name_or_path": "acme/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert "adapter for acme/base" in packer("validate", tmp_path).stdout


def test_part_of_a_folder(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path, {"model.safetensors": GOOD, "x.pkl": b"\x80\x04N."})
    assert lines(tmp_path)[0] == 3
    assert lines(tmp_path, "--include", "*.safetensors")[0] == 0


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "an empty file"),
        (b"abc", "3 bytes"),
        (b"<!DOCTYPE html>", "<!DOCTYP"),
        (b"version https://git-lfs", "git lfs pull"),
    ],
)
def test_what_interrupted_downloads_leave_is_named(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    assert said in lines(tmp_path)[1][0]["findings"][0]["found"]


def test_a_program_learns_what_people_are_shown(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path, {**tiny.SHARDED, "README.md": b"---\nlicense: mit\n---\n"})
    model = lines(tmp_path)[1][0]["model"]
    assert model == {
        "format": "safetensors",
        "architecture": "TinyForCausalLM",
        "family": "tiny",
        "licence": "mit",
        "parameters": 6,
        "dtypes": {"F32": 6},
        "tensor_count": 2,
        "files": 5,
        "bytes": sum(path.stat().st_size for path in tmp_path.iterdir()),
    }
    assert "2 tensors, 6 parameters (F32), 5 files, " in packer("validate", tmp_path).stdout


def test_one_is_no_plural(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    shown = packer("validate", tmp_path, "--deep").stdout
    assert "1 tensor, 1 parameter (F32), 1 file, " in shown
    assert "1 value read: 0 NaN, 0 Inf, 0 tensors" in shown


def test_values_of_copies_are_said_to_be_of_copies(tmp_path: Path) -> None:
    for variant in ("", ".fp16"):
        save_file({"a": torch.ones(5)}, tmp_path / f"model{variant}.safetensors")
    shown = packer("validate", tmp_path, "--deep").stdout
    assert "5 parameters" in shown
    assert "10 values read, copies and other formats included: 0 NaN" in shown


@pytest.mark.parametrize("path", ["w/nonexist", "nonexist", "modle.safetensors", "models/My-Model"])
def test_a_path_that_is_mistyped(path: str) -> None:
    code, (said,) = lines(path)
    assert (code, said["error"]["what"]) == (2, "there is no such file or folder, and this is no reference")
    assert "HOST[:PORT]/REPO" in said["error"]["hint"] and "hf://" in said["error"]["hint"]


def test_a_reference_that_is_mistyped_is_told_as_one() -> None:
    assert lines("registry.example.com/Models/a:b")[1][0]["error"]["what"] == "this is not a reference"


@pytest.mark.parametrize("where", ["folder", "layout"])
def test_globs_that_match_nothing(tmp_path: Path, where: str) -> None:
    model = tiny.write_folder(tmp_path / "m", {"model.safetensors": GOOD, **{f"{at:02}.txt": b"" for at in range(9)}})
    packer("build", model, "--to", f"oci:{tmp_path}/out", "--base", "none")
    code, (said,) = lines(model if where == "folder" else f"oci:{tmp_path}/out", "--include", "*.nope")
    assert (code, said["error"]["what"], said["error"]["expected"]) == (2, "no file matches --include", "*.nope")
    assert said["error"]["found"] == "".join(f"{at:02}.txt, " for at in range(7)) + "07.txt and 2 more"


def test_what_a_killed_run_left_is_said_to_be_that(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path, {"model.safetensors": GOOD, ".packer-staging/a": b""})
    code, (said,) = lines(tmp_path)
    assert (code, said["findings"][0]["rule"]) == (3, "model-unreadable")
    assert "an unfinished run of packer shard, merge, quantize or pull: run it again" in said["findings"][0]["found"]


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"])
def test_a_part_of_a_model(tmp_path: Path, name: str) -> None:
    model = tiny.write_folder(tmp_path, tiny.SHARDED)
    code, (said,) = lines(model / name)
    assert (code, said["error"]["what"], said["findings"]) == (2, "this file is a part of a model", [])
    assert said["error"]["hint"] == f"give the folder: {tmp_path}"


def test_a_shard_that_is_all_of_a_model(tmp_path: Path) -> None:
    model = tiny.write_folder(tmp_path, {"model-00001-of-00001.safetensors": GOOD})
    assert lines(model / "model-00001-of-00001.safetensors")[0] == 0


QUANTIZED = "model.layers.1.mlp.up_proj.weight_scale"


def quantized(folder: Path, value: float, kind: str = "int8") -> Path:
    """A model in compressed-tensors; a value is in one of its scales."""
    tensors = compressed.tensors(kind)
    dtype, values = tensors[QUANTIZED]
    values.flat[0] = value
    tensors[QUANTIZED] = (dtype, values)
    return tiny.write_folder(folder, compressed.files(compressed.config(kind), tensors))


@pytest.mark.parametrize("kind", ["int8", "static", "packed"])
def test_a_quantized_model(tmp_path: Path, kind: str) -> None:
    model = quantized(tmp_path / "m", 2e-3, kind)
    code, said = lines(model)
    assert (code, said[0]["findings"], said[0].get("values")) == (0, [], None)
    assert not validate(parse_source(str(model)).fetch(), Policy()).findings


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (nan, "values-nan"),
        (0.0, "values-scale-zero"),
        (-1.0, "values-scale-sign"),
        (2.0, "values-scale-outlier"),
        (0.3, "values-scale-apart"),
    ],
)
def test_a_wrong_scale_is_found_without_deep(tmp_path: Path, value: float, rule: str) -> None:
    """By the command on a folder and on a layout, by the stage of a build, and with --deep once."""
    model = quantized(tmp_path / "m", value)
    refused = rule != "values-scale-apart"
    for options in ([], ["--deep"]):
        code, said = lines(model, *options)
        assert (code, [(one["rule"], one["tensor"]) for one in said[0]["findings"]]) == (
            3 * refused,
            [(rule, QUANTIZED)],
        )
    built = packer("build", model, "--to", f"oci:{tmp_path}/out", "--base", "none", check=False)
    assert (built.returncode, rule in built.stderr) == (3 * refused, True)
    if refused:
        with pytest.raises(RejectedError) as caught:
            validate(parse_source(str(model)).fetch(), Policy())
        assert [finding.rule.id for finding in caught.value.findings] == [rule]
    else:
        assert [one["rule"] for one in lines(f"oci:{tmp_path}/out")[1][0]["findings"]] == [rule]


@pytest.mark.parametrize(
    ("kind", "name", "shape", "dtype", "rule"),
    [
        ("int8", "weight_scale", (8, 2), "BF16", "model-config-scale-shape"),
        ("static", "input_scale", None, "", "model-config-scale-missing"),
        ("dynamic", "weight", (16, 8), "I8", "model-config-weight-type"),
    ],
)
def test_what_the_headers_of_a_quantized_model_tell(
    tmp_path: Path, kind: str, name: str, shape: tuple[int, ...] | None, dtype: str, rule: str
) -> None:
    tensors, name = compressed.tensors(kind), f"model.layers.1.mlp.up_proj.{name}"
    del tensors[name]
    if shape:
        tensors[name] = (dtype, numpy.ones(shape))
    model = tiny.write_folder(tmp_path, compressed.files(compressed.config(kind), tensors))
    assert rule in {finding["rule"] for finding in lines(model)[1][0]["findings"]}
    with pytest.raises(RejectedError) as caught:
        validate(parse_source(str(model)).fetch(), Policy())
    assert rule in {finding.rule.id for finding in caught.value.findings}
