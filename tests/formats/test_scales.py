"""Quantized models against their schemes, and the values of their scales: as llmcompressor writes them, they pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy
import pytest

from formats.checkpoint import Checkpoint
from formats.examine import Report, examine
from formats.findings import Severity
from formats.matching import MAX_PATTERNS, Names
from formats.scale_values import check_scale_values, is_local, judge_all
from formats.snapshot import Origin, Snapshot
from formats.values import measure
from fuzz.subject import snapshot_of
from registry.blob import BytesBlob, FileBlob
from registry.descriptor import OCTETS
from registry.join import JoinedBlob, Region
from tests.models import compressed
from tests.models.compressed import GROUPS, Tensors
from tests.parts import tiny

Q = "model.layers.1.self_attn.q_proj"
O = "model.layers.1.self_attn.o_proj"  # noqa: E741 - as the modules are called
DOWN = "model.layers.1.mlp.down_proj"


def made(folder: Path, config: dict[str, Any], tensors: Tensors) -> Report:
    return examine(snapshot_of(tiny.write_folder(folder, compressed.files(config, tensors))))


def headers(folder: Path, config: dict[str, Any], tensors: Tensors) -> set[tuple[str, str]]:
    return {(finding.rule.id, finding.tensor) for finding in made(folder, config, tensors).findings}


def values(folder: Path, config: dict[str, Any], tensors: Tensors) -> dict[str, tuple[str, Severity]]:
    report = made(folder, config, tensors)
    assert report.ok
    found = list(check_scale_values(report))
    deep = list(judge_all(measure(report), report))
    assert sorted(map(str, found)) == sorted(map(str, deep)), "--deep says the same, once"
    return {finding.tensor: (finding.rule.id, finding.severity) for finding in found}


@pytest.mark.parametrize("kind", GROUPS)
def test_as_they_are_written(tmp_path: Path, kind: str) -> None:
    assert values(tmp_path, compressed.config(kind), compressed.tensors(kind)) == {}
    assert headers(tmp_path, compressed.config(kind), compressed.tensors(kind)) == set()


def gone(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def typed(name: str, dtype: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: (dtype, tensors[name][1])})


def shaped(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: (tensors[name][0], numpy.ones(shape))})


def plain(module: str) -> Callable[[Tensors], object]:
    """A module left as it was."""

    def change(tensors: Tensors) -> None:
        shape = numpy.shape(tensors[f"{module}.weight"][1])
        for name in [name for name in tensors if name.startswith(f"{module}.")]:
            del tensors[name]
        tensors[f"{module}.weight"] = ("BF16", numpy.ones(shape))

    return change


SHAPE, TYPE, MISSING = "model-config-scale-shape", "model-config-scale-type", "model-config-scale-missing"
WEIGHT = "model-config-weight-type"

WRONG: dict[str, tuple[str, Callable[[Tensors], object], str, str]] = {
    "too few rows": ("int8", shaped(f"{Q}.weight_scale", 7, 1), SHAPE, f"{Q}.weight_scale"),
    "rows and columns": ("int8", shaped(f"{Q}.weight_scale", 1, 8), SHAPE, f"{Q}.weight_scale"),
    "one for all rows": ("dynamic", shaped(f"{Q}.weight_scale", 1), SHAPE, f"{Q}.weight_scale"),
    "one for a tensor": ("static", shaped(f"{Q}.weight_scale", 8, 1), SHAPE, f"{Q}.weight_scale"),
    "one for the inputs": ("static", shaped(f"{Q}.input_scale", 8), SHAPE, f"{Q}.input_scale"),
    "a block too few": ("block", shaped(f"{DOWN}.weight_scale", 2, 3), SHAPE, f"{DOWN}.weight_scale"),
    "blocks transposed": ("block", shaped(f"{DOWN}.weight_scale", 4, 2), SHAPE, f"{DOWN}.weight_scale"),
    "a group too few": ("packed", shaped(f"{DOWN}.weight_scale", 8, 2), SHAPE, f"{DOWN}.weight_scale"),
    "a group too many": ("packed", shaped(f"{Q}.weight_scale", 8, 3), SHAPE, f"{Q}.weight_scale"),
    "rows of packed": ("packed", shaped(f"{Q}.weight_scale", 16, 2), SHAPE, f"{Q}.weight_scale"),
    "groups of fp4": ("fp4", shaped(f"{Q}.weight_scale", 8, 1), SHAPE, f"{Q}.weight_scale"),
    "codes for a scale": ("int8", typed(f"{Q}.weight_scale", "I8"), TYPE, f"{Q}.weight_scale"),
    "eight bits for a scale": ("int8", typed(f"{Q}.weight_scale", "F8_E4M3"), TYPE, f"{Q}.weight_scale"),
    "a scale of the inputs": ("static", typed(f"{Q}.input_scale", "I32"), TYPE, f"{Q}.input_scale"),
    "another type": ("int8", typed(f"{Q}.weight", "F8_E4M3"), WEIGHT, f"{Q}.weight"),
    "a weight that was left": ("int8", typed(f"{Q}.weight", "BF16"), WEIGHT, f"{Q}.weight"),
    "packed in bytes": ("packed", typed(f"{Q}.weight_packed", "U8"), WEIGHT, f"{Q}.weight_packed"),
    "no scale": ("int8", gone(f"{Q}.weight_scale"), MISSING, f"{Q}.weight"),
    "no scale of the inputs": ("static", gone(f"{Q}.input_scale"), MISSING, f"{Q}.weight"),
    "no zero point": ("asymmetric", gone(f"{Q}.weight_zero_point"), MISSING, f"{Q}.weight_packed"),
    "no shape": ("packed", gone(f"{Q}.weight_shape"), MISSING, f"{Q}.weight_packed"),
    "no scale of the scales": ("fp4", gone(f"{Q}.weight_global_scale"), MISSING, f"{Q}.weight_packed"),
    "left": ("dynamic", plain(O), "model-config-not-quantized", f"{O}.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_headers_tell(tmp_path: Path, name: str) -> None:
    kind, change, rule, tensor = WRONG[name]
    tensors = compressed.tensors(kind)
    change(tensors)
    found = headers(tmp_path, compressed.config(kind), tensors)
    assert (rule, tensor) in found
    assert {each for each, _ in found} - {"model-config-fused"} == {rule}


@pytest.mark.parametrize("shape", [(8,), (8, 1)])
def test_a_scale_for_each_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = compressed.tensors("int8")
    shaped(f"{Q}.weight_scale", *shape)(tensors)
    assert headers(tmp_path, compressed.config("int8"), tensors) == set()


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_scale_for_each_tensor(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = compressed.tensors("static")
    tensors |= {f"{Q}.{name}": ("BF16", numpy.full(shape, 1e-3)) for name in ("weight_scale", "input_scale")}
    assert headers(tmp_path, compressed.config("static"), tensors) == set()


@pytest.mark.parametrize("ignore", [["re:.*o_proj"], [O], [O.removeprefix("model.")], [f"language_model.{O}"]])
def test_what_is_ignored_may_be_left(tmp_path: Path, ignore: list[str]) -> None:
    tensors = compressed.tensors("dynamic", 2)
    plain(O)(tensors)
    quantized = {"re:.*o_proj": {("model-config-ignored", f"{O.replace('1', '0')}.weight")}}
    found = headers(tmp_path, compressed.config("dynamic", 2, ignore=ignore), tensors)
    assert found == quantized.get(ignore[0], set())


@pytest.mark.parametrize(
    "ignore", [Q, f"re:{Q}$", r"re:.*layers\.1\.self_attn\.q", "re:^(?!.*(k_proj|v_proj|o_proj)).*1.self"]
)
def test_what_is_ignored_and_quantized(tmp_path: Path, ignore: str) -> None:
    config = compressed.config("dynamic", ignore=["lm_head", ignore])
    assert headers(tmp_path, config, compressed.tensors("dynamic")) == {("model-config-ignored", f"{Q}.weight")}


def test_what_no_target_names_may_be_left(tmp_path: Path) -> None:
    config = compressed.config("dynamic")
    config["quantization_config"]["config_groups"]["group_0"]["targets"] = [
        r"re:.*layers\.[023]\..*",
        "re:.*[qkv]_proj",
        DOWN,
    ]
    tensors = compressed.tensors("dynamic")
    plain(O)(tensors)
    assert headers(tmp_path, config, tensors) == set()


def test_parts_of_one_module_are_quantized_alike(tmp_path: Path) -> None:
    tensors = compressed.tensors("dynamic")
    plain(Q)(tensors)
    config = compressed.config("dynamic", ignore=[Q])
    assert headers(tmp_path, config, tensors) == {("model-config-fused", Q.removesuffix(".q_proj"))}
    for part in "kv":
        plain(Q.replace("q_proj", f"{part}_proj"))(tensors)
    config = compressed.config("dynamic", ignore=["re:.*1.self_attn.[qkv]_proj"])
    assert headers(tmp_path, config, tensors) == set()


def test_two_schemes(tmp_path: Path) -> None:
    config, tensors = compressed.config("dynamic"), compressed.tensors("dynamic")
    four_bits = {"targets": ["re:.*down_proj"], **GROUPS["packed"]}
    config["quantization_config"] |= {"format": "mixed-precision"}
    config["quantization_config"]["config_groups"]["group_1"] = four_bits
    down = {name: values for name, values in compressed.tensors("packed").items() if "down_proj" in name}
    tensors = {name: values for name, values in tensors.items() if "down_proj" not in name} | down
    assert headers(tmp_path, config, tensors) == set()
    shaped(f"{DOWN}.weight_scale", 8, 5)(tensors)
    assert headers(tmp_path, config, tensors) == {(SHAPE, f"{DOWN}.weight_scale")}
    four_bits["targets"] = [DOWN.replace("1", str(layer)) for layer in range(4)] + ["lm_head"]
    assert headers(tmp_path, config, tensors) == {(SHAPE, f"{DOWN}.weight_scale")}
    shaped(f"{Q}.weight_scale", 8, 2)(tensors)
    assert headers(tmp_path, config, tensors) == {(SHAPE, f"{name}.weight_scale") for name in (DOWN, Q)}


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_numbers_that_do_not_fill_the_last_integer(tmp_path: Path, bits: int) -> None:
    """As later versions pack, without a gap, and as earlier ones did, whole numbers in each integer."""
    config = compressed.config("packed", layers=0)
    config["quantization_config"]["config_groups"]["group_0"]["weights"] |= {"num_bits": bits, "group_size": 32}
    config["model_type"] = "unknown"
    for columns in (32, 64, 96, 100, 4096):
        for packed in (-(-columns * bits // 32), -(-columns // (32 // bits))):
            weight, shape = ("I32", numpy.ones((4, packed))), ("I64", numpy.array([4, columns]))
            scale = ("BF16", numpy.ones((4, -(-columns // 32))))
            tensors = {"a.weight_packed": weight, "a.weight_scale": scale, "a.weight_shape": shape}
            assert headers(tmp_path, config, tensors) == set()


def test_an_embedding_that_no_target_names(tmp_path: Path) -> None:
    tensors = compressed.tensors("dynamic")
    embedding = "model.embed_tokens.weight"
    tensors |= {
        embedding: ("F8_E4M3", numpy.full((8, 8), 64)),
        f"{embedding}_scale": ("BF16", numpy.full((8, 1), 1e-3)),
    }
    config = compressed.config("dynamic")
    assert headers(tmp_path, config, tensors) == {("model-config-embedding-quantized", embedding)}
    for target in ("Embedding", "re:.*embed_tokens$", "model.embed_tokens"):
        config["quantization_config"]["config_groups"]["group_0"]["targets"] = ["Linear", target]
        assert headers(tmp_path, config, tensors) == set()


ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, "", "x", "re:", "re:(", "re:.*", [], [[]], {}, {"a": 1}, [None], ["re:[[a"], [-1, 4]),
    *(
        [0, 0],
        [4, 4],
        {"weights": {}},
        {"a": {"weights": {}}},
        {"a": ["Linear"]},
        10**4000,
        "\ud800",
        ["re:a{9999999999}"],
    ),
)


def test_configs_that_say_nonsense() -> None:
    from formats.config import check_config

    report = {tensor.name: tensor for tensor in _tensors("packed")}
    for kind in ("packed", "static"):
        paths = [(), *((key,) for key in compressed.config(kind)["quantization_config"])]
        paths += [("config_groups", "group_0"), *(("config_groups", "group_0", key) for key in GROUPS[kind])]
        paths += [("config_groups", "group_0", "targets"), ("config_groups", "group_0", "input_activations", "dynamic")]
        weights = GROUPS[kind]["weights"]
        names = [*weights, "group_size", "block_structure", "scale_dtype", "symmetric"]
        paths += [("config_groups", "group_0", "weights", key) for key in names]
        for path in paths:
            for odd in ODD:
                config = _with(compressed.config(kind), ("quantization_config", *path), odd)
                for finding in check_config(config, report):
                    finding.to_json()


def _tensors(kind: str) -> tuple[Any, ...]:
    data = compressed.files(compressed.config(kind), compressed.tensors(kind))["model.safetensors"]
    from formats import safetensors
    from formats.snapshot import ModelFile
    from registry.names import relative_path

    blob = BytesBlob.of(OCTETS, data)
    return safetensors.read(ModelFile(relative_path("model.safetensors", ""), len(data), blob)).tensors


def _with(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    inner = tree.get(path[0]) if isinstance(tree, dict) else None
    return {**(tree if isinstance(tree, dict) else {}), path[0]: _with(inner, path[1:], value)}


@pytest.mark.parametrize(
    "pattern",
    [
        *("re:" + ".*" * 9 + "x", "re:(a+)+x", "re:" + "a?" * 90 + "x", "re:" + "(a|aa)" * 30 + "x", "re:(a*){20}x"),
        *("re:(a|a)*?x", "re:(?i:a)*x", r"re:(a*)\1\1x", "re:" + "a*" * 70 + "x", "re:((a?)*)*x", "re:a{,99}{,99}x"),
    ],
)
def test_patterns_that_would_take_for_ever(pattern: str) -> None:
    started = time.process_time()
    names = Names([pattern])
    assert not any(names.match("a" * 300) for _ in range(1000))
    assert names.match("a" * 300) is None
    many = Names([f"{pattern}{at}" for at in range(10_000)])
    assert many.match("a") is None
    assert time.process_time() - started < 20


def test_names_and_patterns() -> None:
    names = Names(["lm_head", "re:.*mlp.gate$", "re:(", 1, None])
    assert (names.match("lm_head"), names.match("a.mlp.gate"), names.match("a.mlp.gate_proj")) == (True, True, None)
    assert Names(["re:.*head"]).match("lm_head") is True
    assert Names(["re:head"]).match("lm_head") is False
    assert Names(None).match("") is Names("re:.*").match("") is False
    assert Names([f"re:{at}" for at in range(MAX_PATTERNS)]).match("a") is False


# Values


def planted(kind: str, name: str, value: float, at: int | None = None, times: bool = False) -> Tensors:
    """A value in all of a tensor, or at a place of it."""
    tensors = compressed.tensors(kind)
    dtype, old = tensors[name]
    new = old.astype(float).copy()
    new.flat[slice(None) if at is None else at] = value * new.flat[0] if times else value
    tensors[name] = (dtype, new)
    return tensors


WEIGHTS = [("int8", Q), ("dynamic", DOWN), ("static", O), ("block", DOWN), ("packed", Q)]
REFUSING = {nan: "values-nan", inf: "values-inf", 0.0: "values-scale-zero", -1e-3: "values-scale-sign"}


@pytest.mark.parametrize("value", REFUSING)
@pytest.mark.parametrize(("kind", "module"), WEIGHTS)
def test_values_that_no_scale_has(tmp_path: Path, kind: str, module: str, value: float) -> None:
    name = f"{module}.weight_scale"
    for at in (None, 0):
        found = values(tmp_path, compressed.config(kind), planted(kind, name, value, at))
        assert found == {name: (REFUSING[value], Severity.ERROR)}


@pytest.mark.parametrize("at", [None, 0])
@pytest.mark.parametrize(("kind", "module"), WEIGHTS)
def test_a_scale_a_thousand_times_too_large(tmp_path: Path, kind: str, module: str, at: int | None) -> None:
    name = f"{module}.weight_scale"
    found = values(tmp_path, compressed.config(kind), planted(kind, name, 1000, at, times=True))
    assert found == {name: ("values-scale-outlier", Severity.ERROR)}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.05, None),
        (0.25, ("values-scale-apart", Severity.WARNING)),
        (1.0, ("values-scale-outlier", Severity.ERROR)),
        (100.0, ("values-scale-outlier", Severity.ERROR)),
        (2e-6, ("values-scale-apart", Severity.WARNING)),
        (1e-3, None),
    ],
)
def test_how_far_a_scale_may_be(tmp_path: Path, value: float, said: tuple[str, Severity] | None) -> None:
    name = f"{Q}.weight_scale"
    found = values(tmp_path, compressed.config("static"), planted("static", name, value))
    assert found.get(name) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (nan, ("values-nan", Severity.ERROR)),
        (-1.0, ("values-scale-sign", Severity.ERROR)),
        (0.0, ("values-scale-size", Severity.WARNING)),
        (0.1, None),
        (2.0, ("values-scale-apart", Severity.WARNING)),
    ],
)
def test_scales_of_activations(tmp_path: Path, value: float, said: tuple[str, Severity] | None) -> None:
    name = f"{Q}.input_scale"
    assert values(tmp_path, compressed.config("static"), planted("static", name, value)).get(name) == said


def test_scales_that_have_few_of_their_like(tmp_path: Path) -> None:
    tensors = {name: values for name, values in planted("static", f"{Q}.weight_scale", 5.0).items() if ".2" not in name}
    tensors = {name: values for name, values in tensors.items() if ".3" not in name}
    found = values(tmp_path, compressed.config("static", 2), tensors)
    assert found == {f"{Q}.weight_scale": ("values-scale-apart", Severity.WARNING)}


def test_scales_of_weights_beyond_all_numbers_of_16_bits(tmp_path: Path) -> None:
    tensors = {"a.weight": ("F8_E4M3", numpy.full((4, 4), 64)), "a.weight_scale": ("F32", numpy.array([150.0]))}
    config = {"quantization_config": {"quant_method": "fp8"}}
    assert values(tmp_path, config, tensors) == {"a.weight_scale": ("values-scale-size", Severity.WARNING)}


def test_layers_that_are_all_zero_but_one(tmp_path: Path) -> None:
    tensors = compressed.tensors("static")
    tensors |= {name: ("F32", numpy.array([1e-7])) for name in tensors if "weight_scale" in name and ".1." not in name}
    assert values(tmp_path, compressed.config("static"), tensors) == {}


def deepseek(value: float = 1e-3) -> tuple[dict[str, Any], Tensors]:
    config = {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}}
    tensors: Tensors = {}
    for layer in range(6):
        scale = value if layer == 3 else 1e-3
        tensors[f"model.layers.{layer}.mlp.up_proj.weight"] = ("F8_E4M3", numpy.full((8, 8), 64))
        tensors[f"model.layers.{layer}.mlp.up_proj.weight_scale_inv"] = ("F32", numpy.full((1, 1), scale))
    return config, tensors


def test_fp8_as_deepseek_has_it(tmp_path: Path) -> None:
    assert values(tmp_path, *deepseek()) == {}
    name = "model.layers.3.mlp.up_proj.weight_scale_inv"
    assert values(tmp_path, *deepseek(1.0)) == {name: ("values-scale-outlier", Severity.ERROR)}
    assert values(tmp_path, *deepseek(0.0)) == {name: ("values-scale-size", Severity.WARNING)}


def test_models_of_other_folders_are_others(tmp_path: Path) -> None:
    config, tensors = deepseek()
    (tmp_path / "b").mkdir()
    (tmp_path / "b/model.safetensors").write_bytes(compressed.files(*deepseek(1.0))["model.safetensors"])
    assert len(values(tmp_path, config, tensors)) == 1


class Far:
    """A blob that may be asked for its header, and for nothing else."""

    descriptor = BytesBlob.of(OCTETS, b"").descriptor

    def open(self) -> Any:
        raise AssertionError("a request")


def test_only_what_is_here_is_read(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path, {"a": b"abc"})
    file, memory = FileBlob.at(tmp_path / "a"), BytesBlob.of(OCTETS, b"abc")
    joined = JoinedBlob((Region(file, 0, 1), Region(memory, 0, 1)))
    assert is_local(file) and is_local(memory) and is_local(joined)
    assert not is_local(Far()) and not is_local(JoinedBlob((Region(file, 0, 1), Region(Far(), 0, 1))))
    report = made(tmp_path / "m", compressed.config("int8"), planted("int8", f"{Q}.weight_scale", nan))
    far = {type(file)(file.name, file.size, Far()): weights for file, weights in report.read.items()}
    assert list(check_scale_values(Report(report.snapshot, far, report.card, ()))) == []


def test_a_checkpoint_is_looked_at_like_a_report(tmp_path: Path) -> None:
    tiny.write_folder(tmp_path, compressed.files(compressed.config("int8"), planted("int8", f"{Q}.weight_scale", nan)))
    found = check_scale_values(Checkpoint(snapshot_of(tmp_path)))
    assert [finding.rule.id for finding in found] == ["values-nan"]


def test_a_model_without_scales_is_not_read() -> None:
    assert list(check_scale_values(Report(Snapshot(Origin("folder"), ()), {}, None, ()))) == []
