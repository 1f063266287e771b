"""`quantize:` of a build, `packer quantize` and `packer recipes`: what they make, take again, foresee and refuse."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from recipes.recipe import SHIPPED, shipped
from tests.parts.command import events, packer, run
from tests.parts.hub import COMMIT, StrictHub
from tests.parts.layers import give_words, llama
from tests.parts.models import digests
from tests.parts.small import cut_short

SENTENCE = "the cat sat on the mat and the dog ran far"
TEXT = "".join(json.dumps({"text": f"{SENTENCE} {'to it ' * at}"}) + "\n" for at in range(40))
RULE = (SHIPPED / "fp8-dynamic.yaml").read_text()
STATIC = (SHIPPED / "fp8-static.yaml").read_text()
GROUPS = (
    (SHIPPED / "int4-w4a16.yaml")
    .read_text()
    .replace("GPTQ", "Quantization")
    .replace("calibration: true", "calibration: false")
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny layers, which nothing that is refused may touch."""
    return give_words(llama(tmp_path_factory.mktemp("model") / "model"))


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return Path(shutil.copytree(model, tmp_path / "copy"))


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory."""
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder)
    try:
        yield folder
    finally:
        run("umount", folder)


def refused(*arguments: str | Path, code: int = 2, **options: Any) -> str:
    """What the command says on standard error, where it ends with one error that is expected."""
    done = packer(*arguments, check=False, **options)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert done.stderr.count("error: ") == 1
    assert "\N{REPLACEMENT CHARACTER}" not in done.stderr
    return done.stderr


def quantized(told: list[dict[str, Any]]) -> dict[str, Any]:
    """What is told of the stage."""
    (line,) = [line for line in told if line["event"] == "finished" and line["stage"] == "quantize"]
    return line


# ---- what is refused before anything starts

FILES = {
    "empty.jsonl": '{"id": 1}\n{"id": 2}\n',
    "few.jsonl": '{"text": "the cat"}\n' * 5,
    "short.jsonl": '{"text": "the cat sat"}\n' * 40,
    "good.jsonl": TEXT,
    "no.yaml": "a: [\n",
    "list.yaml": "- a\n",
    "more.yaml": f"{RULE}modifier: red\n",
    "none.yaml": RULE.partition("modifiers")[0],
    "other.yaml": RULE.partition("modifiers")[0] + "options: {type: Q4_K_M}\n",
    "kind.yaml": RULE.replace("engine: llmcompressor", "engine: abacus"),
    "scheme.yaml": RULE.replace("FP8_DYNAMIC", "FP9_DYNAMIC"),
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with all of them."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("fp8-dynamik", "", "did you mean 'fp8-dynamic'?"),
        ("zzz", "", "expected: fp8-block, fp8-dynamic, "),
        ("./nowhere.yaml", "", "there is no such recipe"),
        ("no.yaml", "", "this is not YAML: while parsing a flow node expected the node content"),
        ("list.yaml", "", "a recipe is a map of keys"),
        ("more.yaml", "", "did you mean 'modifiers'?"),
        ("none.yaml", "", "found:    no modifiers"),
        ("other.yaml", "", "found:    options"),
        ("kind.yaml", "", "'llmcompressor', 'onnxruntime' or 'llama.cpp'"),
        ("fp8-static", "--calibration empty.jsonl", "empty.jsonl:1: a file of samples with no text"),
        ("fp8-static", "--calibration nowhere.jsonl", "there is no such data"),
        ("fp8-static", "--calibration few.jsonl", "calibration needs 16 samples at least, found 5"),
        ("fp8-static", "--calibration good.jsonl --samples 50", "asks for 50 samples, found 40"),
        ("fp8-static", "--calibration no.yaml", "this is no file of samples"),
        ("fp8-dynamic", "--calibration good.jsonl", "needs no calibration data"),
        ("fp8-dynamic", "--device tpu", "this is no device"),
        ("fp8-dynamic", "--device cuda:x", "auto, cpu, cuda or cuda:N"),
    ],
)
def test_what_cannot_be(model: Path, files: Path, recipe: str, options: str, said: str) -> None:
    stderr = refused("quantize", model, "out", "--recipe", recipe, *options.split(), cwd=files)
    assert said in stderr
    assert not (files / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "options", "said"),
    [
        ("scheme.yaml", "", ("does not understand this recipe", "FP9_DYNAMIC", "FP8_DYNAMIC")),
        ("fp8-dynamic", "--device cuda:99", ("there is no such device", "expected: cuda:99", "--device cpu")),
        (
            "fp8-static",
            "--calibration short.jsonl --samples 20",
            ("too short", "16 samples of 8 tokens", "0 such among 20; the middle one has 3 tokens"),
        ),
    ],
)
def test_what_only_the_library_knows(
    model: Path, files: Path, recipe: str, options: str, said: tuple[str, ...]
) -> None:
    stderr = refused("quantize", model, "out", "--recipe", recipe, *options.split(), cwd=files)
    assert all(part in stderr for part in said), stderr
    assert "pydantic" not in stderr
    assert not [path for path in (files / "out/.packer-staging").iterdir() if not path.name.startswith(".packer-")]


def test_targets_that_cannot_be(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    command = ("quantize", model, "--recipe", "fp8-dynamic")
    assert "found:    notes.txt" in refused(*command, tmp_path / "mine")
    assert "the result would lie inside the model" in refused(*command, model / "made")
    with mounted(tmp_path / "fixed", "ro") as fixed:
        assert "Read-only file system" in refused(*command, fixed / "made", code=5)
    assert digests(tmp_path / "mine").keys() == {"notes.txt"}
    assert not (model / "made").exists()


def test_a_disk_that_is_too_small_is_seen_before_anything_starts(tmp_path: Path) -> None:
    large = llama(tmp_path / "model", hidden=256, inner=2048)
    with mounted(tmp_path / "small", "size=2m") as small:
        stderr = refused("quantize", large, small / "made", "--recipe", "fp8-dynamic", code=6)
        work = small / "made/.packer-staging"
        assert not [path for path in work.iterdir() if path.name != ".packer-key"]
    stages = [line for line in stderr.splitlines() if not line.startswith("  ")]
    assert [line.split()[0] for line in stages[-2:]] == ["quantize", "error:"]
    assert "bytes free" in stderr


# ---- a build


def test_the_build_file_says_how(model: Path, tmp_path: Path) -> None:
    """The recipe and the data lie beside it; what was done once is not done again, wherever it goes then."""
    (tmp_path / "mine.yaml").write_text(STATIC.replace("fp8-static", "mine"))
    (tmp_path / "prompts.jsonl").write_text(TEXT)
    (tmp_path / "packer.yaml").write_text(
        f"source: {model}\npublish: {{to: 'oci:./out', base: none}}\nquantize:\n  recipe: mine.yaml\n"
        "  calibration: {data: prompts.jsonl, samples: 20, max_length: 16, seed: 3}\n"
    )
    environment = {"PACKER_CACHE": str(tmp_path / "cache")}
    told = events("build", tmp_path / "packer.yaml", env=environment, cwd="/")
    made = quantized(told)
    assert (made["recipe"], made["is_new"], made["before"] > made["after"]) == ("mine", True, True)
    known = made["calibration"]
    assert (known["origin"], known["samples"], known["max_length"], known["seed"]) == ("prompts.jsonl", 20, 16, 3)
    assert known["digest"] == f"sha256:{hashlib.sha256(TEXT.encode()).hexdigest()}"
    assert {module["name"] for module in made["modules"]} == {
        name.removesuffix(".weight") for name in weight_map(model)
    }
    assert all(bool(module["scheme"]) != bool(module["why"]) for module in made["modules"])
    again = events("build", tmp_path / "packer.yaml", env=environment, cwd="/")
    assert (quantized(again)["is_new"], quantized(again)["seconds"]) == (False, made["seconds"])
    assert [again[-1][key] for key in ("image", "modelpack")] == [told[-1][key] for key in ("image", "modelpack")]
    assert not again[-1]["changed"]


def weight_map(folder: Path) -> dict[str, str]:
    index: dict[str, dict[str, str]] = json.loads((folder / "model.safetensors.index.json").read_text())
    return index["weight_map"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("quantize: {recipe: fp8-static, calibration: {sample: 3}}", "did you mean 'samples'?"),
        ("quantize: {recipe: fp8-static, calibration: {samples: 0}}", "quantize.calibration.samples"),
        ("quantize: {recipe: fp8-static, calibration: {max_length: 4}}", "quantize.calibration.max_length"),
        ("quantize: {recipe: fp8-dynamic, device: tpu}", "this is no device"),
        ("quantize: {recipes: fp8-dynamic}", "did you mean 'recipe'?"),
        ("quantize: {recipe: ./nowhere.yaml}", "there is no such recipe"),
        ("recipe: fp8-dynamic", "put it under quantize"),
    ],
)
def test_build_files_that_are_wrong(model: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "packer.yaml").write_text(f"source: {model}\n{text}\n")
    assert said in refused("build", tmp_path / "packer.yaml", "--until", "quantize")


def test_what_is_published_and_what_is_taken_from_the_cache(copy: Path, tmp_path: Path) -> None:
    """A data-free recipe sees no tokenizer, so that another one costs nothing; another config does."""
    (tmp_path / "packer.yaml").write_text(
        f"source: {copy}\nquantize: {{recipe: int8-w8a16}}\npublish: {{to: 'oci:./out', base: none}}\n"
    )
    environment = {"PACKER_CACHE": str(tmp_path / "cache")}
    command = ("build", tmp_path / "packer.yaml", "--quantize", "fp8-dynamic")
    until = events(*command, "--until", "quantize", env=environment)
    assert (until[-1]["event"], until[-1]["recipe"], until[-1]["is_new"]) == ("stopped", "fp8-dynamic", True)
    assert not (tmp_path / "out").exists()
    first = events(*command, env=environment)
    assert not quantized(first)["is_new"]
    packer("pull", f"oci:{tmp_path}/out", tmp_path / "pulled")
    before, pulled = digests(copy), digests(tmp_path / "pulled")
    (work,) = (tmp_path / "cache/quantized").iterdir()
    made = {name: digest for name, digest in digests(work).items() if name.endswith(".safetensors")}
    assert made.items() < pulled.items()
    changed = {name for name in pulled if pulled[name] != before[name]}
    assert changed == {*made, "config.json", "model.safetensors.index.json", "README.md"}
    assert "FP8" in (tmp_path / "pulled/README.md").read_text()
    assert json.loads((tmp_path / "pulled/config.json").read_text())["quantization_config"]["config_groups"]
    assert packer("validate", f"oci:{tmp_path}/out").returncode == 0
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text() + "\n")
    second = events(*command, env=environment)
    assert (quantized(second)["is_new"], second[-1]["changed"]) == (False, True)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32}))
    assert quantized(events(*command, "--until", "quantize", env=environment))["is_new"]
    assert len([*(tmp_path / "cache/quantized").iterdir()]) == 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_short(tmp_path_factory.mktemp("small") / "model")


def test_regions_of_files_are_quantized_as_files(small: Path, tmp_path: Path) -> None:
    """Weights that are regrouped are no files yet; what is written of them for the child is gone behind it."""
    environment = {"PACKER_CACHE": str(tmp_path / "cache")}
    command = ("build", small, "--quantize", "fp8-dynamic", "--max-size", "20MB", "--to", f"oci:{tmp_path}/out")
    told = events(*command, "--base", "none", env=environment)
    assert quantized(told)["is_new"]
    (work,) = (tmp_path / "cache/quantized").iterdir()
    there = {path.relative_to(work).as_posix() for path in work.rglob("*")}
    weights = {name for name in there if name.endswith(".safetensors")}
    assert there == {*weights, ".packer-key", ".packer-record.json"}
    packer("pull", f"oci:{tmp_path}/out", tmp_path / "pulled")
    shards = [*(tmp_path / "pulled").glob("*.safetensors")]
    assert weights < {path.name for path in shards}
    assert set(weight_map(tmp_path / "pulled")) >= set(weight_map(small))
    packer("validate", tmp_path / "pulled")
    again = events(*command, "--base", "none", env=environment)
    assert (quantized(again)["is_new"], again[-1]["changed"]) == (False, False)


def test_a_plan_foresees_the_size(small: Path, tmp_path: Path) -> None:
    """Of what goes file by file, in eight bits and, by a recipe of one's own, in four."""
    (tmp_path / "four.yaml").write_text(GROUPS)
    environment = {"PACKER_CACHE": str(tmp_path / "cache")}
    for recipe in ("int8-w8a16", str(tmp_path / "four.yaml")):
        plan = json.loads(
            packer("plan", small, "--to", f"oci:{tmp_path}/out", "--quantize", recipe, "--json", env=environment).stdout
        )
        foreseen = sum(layer["bytes"] for layer in plan["layers"] if layer["path"].endswith(".safetensors"))
        made = quantized(events("build", small, "--quantize", recipe, "--until", "quantize", env=environment))
        assert abs(foreseen - made["after"]) < made["after"] / 10, recipe
        assert plan["disk"] > made["after"]
        assert plan["memory"] > made["host"]
    said = packer("plan", small, "--to", f"oci:{tmp_path}/out", "--quantize", "int8-w8a16", env=environment).stdout
    assert "quantize  int8-w8a16; the sizes of weights from here on are estimates" in said
    stderr = refused("plan", small, "--to", f"oci:{tmp_path}/out", "--quantize", "gguf-q8_0")
    assert "does not fit this model: it is for gguf" in stderr


# ---- a dataset of the Hub


@pytest.fixture
def hub() -> StrictHub:
    table = pa.Table.from_pylist([{"text": f"{SENTENCE} {at}"} for at in range(30)])
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer)
    files = {"README.md": b"rows", "test.jsonl": b"{}", "data/train.jsonl": TEXT.encode(), "rows.parquet": b""}
    return StrictHub({**files, "rows.parquet": buffer.getvalue().to_pybytes()}, kind="datasets")


def test_calibrated_on_a_dataset_of_the_hub(
    hub: StrictHub, environment: dict[str, str], model: Path, tmp_path: Path
) -> None:
    command = ("quantize", model, tmp_path / "made", "--recipe", "fp8-static", "--calibration", "acme/tiny")
    known = events(*command, "--max-length", "16", env=environment)[-1]["calibration"]
    assert (known["origin"], known["samples"]) == ("acme/tiny", 40)
    assert known["digest"] == f"sha256:{hashlib.sha256(TEXT.encode()).hexdigest()}"
    assert "hf_secret" not in packer("inspect", tmp_path / "made").stdout


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (f"hf://datasets/acme/tiny@{COMMIT}/data/train.jsonl", 40),
        ("acme/tiny@main/rows.parquet", 30),
    ],
)
def test_a_file_of_a_dataset(environment: dict[str, str], model: Path, data: str, count: int) -> None:
    """As many samples as there are may be asked for, and one more not: then nothing is done with them yet."""
    command = ("quantize", model, "out", "--recipe", "fp8-static", "--calibration", data, "--samples", str(count + 1))
    assert f"found:    {count} rows with text" in refused(*command, env=environment)


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        ("acme/nowhere", 5, "hf://datasets/acme/nowhere@main"),
        ("acme/tiny@nowhere", 5, "no such revision"),
        ("acme/tiny/nowhere.jsonl", 2, "a file of a dataset has hf://datasets/ before it"),
        ("hf://datasets/acme/tiny/nowhere.jsonl", 2, "this dataset has no such file"),
        ("acme/tiny", 5, "what the Hub sent is not what it promised"),
    ],
)
def test_datasets_that_cannot_be_had(
    hub: StrictHub, environment: dict[str, str], model: Path, data: str, code: int, said: str
) -> None:
    hub.lies["data/train.jsonl"] = TEXT.encode()[:-2] + b"!\n"
    command = ("quantize", model, "out", "--recipe", "fp8-static", "--calibration", data)
    assert said in refused(*command, code=code, env=environment)


def test_a_gated_dataset(hub: StrictHub, environment: dict[str, str], model: Path) -> None:
    hub.gated = True
    command = ("quantize", model, "out", "--recipe", "fp8-static", "--calibration", "acme/tiny")
    stderr = refused(*command, code=5, env=environment)
    assert "gated" in stderr and "HF_TOKEN" in stderr


# ---- the recipes


def test_recipes_are_listed_and_shown(tmp_path: Path) -> None:
    listed = packer("recipes").stdout
    lines = [json.loads(line) for line in packer("recipes", "--json").stdout.splitlines()]
    assert [line["name"] for line in lines] == [recipe.name for recipe in shipped()]
    assert {line["event"] for line in lines} == {"recipe"}
    assert all(f"\n  {line['name']} " in listed for line in lines)
    assert listed.count("needs samples of text") == sum(line["calibration"] for line in lines) > 0
    shown = packer("recipes", "int8-w8a8").stdout
    assert shown.startswith("int8-w8a8: ")
    assert "SmoothQuantModifier:\n  smoothing_strength: 0.8\n" in shown
    assert all(line in shown for line in lines[[line["name"] for line in lines].index("int8-w8a8")]["hardware"])
    (tmp_path / "mine.yaml").write_text(RULE.replace("name: fp8-dynamic", "name: mine"))
    assert packer("recipes", tmp_path / "mine.yaml").stdout.startswith("mine: ")
    (line,) = packer("recipes", tmp_path / "mine.yaml", "--json").stdout.splitlines()
    assert json.loads(line)["digest"] == f"sha256:{hashlib.sha256((tmp_path / 'mine.yaml').read_bytes()).hexdigest()}"
    assert "did you mean" in refused("recipes", "fp8-statik")
