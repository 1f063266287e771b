"""Recipes are data: what is in those that come along, how one's own is read, and what llmcompressor makes of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from recipes.described import MAX_SIZE
from recipes.engines.schemes import groups_of, is_file_by_file, needs_data, read_config, read_modifiers
from recipes.recipe import SHIPPED, Engine, Recipe, find_recipe, read_recipe, shipped
from recipes.size import bits_of
from registry.errors import UsageError

pytestmark = pytest.mark.filterwarnings("ignore")

DYNAMIC = (SHIPPED / "fp8-dynamic.yaml").read_text()
MINE = """
name: mine
description: one's own
engine: llmcompressor
calibration: false
modifiers:
"""
LLMCOMPRESSOR = [recipe for recipe in shipped() if recipe.engine is Engine.LLMCOMPRESSOR]


def test_the_recipes_that_come_along() -> None:
    assert {recipe.name for recipe in shipped()} == {
        *("fp8-block", "fp8-dynamic", "fp8-static", "int8-w8a8", "int8-w8a8-rtn", "int8-w8a16", "int4-w4a16"),
        *("onnx-int8-dynamic", "onnx-int8-static", "gguf-q8_0", "gguf-q4_k_m", "gguf-q6_k"),
    }
    for recipe in shipped():
        path = SHIPPED / f"{recipe.name}.yaml"
        assert recipe.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert find_recipe(recipe.name) == find_recipe(str(path)) == recipe
        assert recipe.description and recipe.hardware
        assert json.loads(json.dumps(recipe.to_json()))["settings"] == dict(recipe.settings)


@pytest.mark.parametrize("recipe", LLMCOMPRESSOR, ids=lambda recipe: recipe.name)
def test_what_the_library_makes_of_them(recipe: Recipe) -> None:
    """Whether it needs data is what the recipe says, and so is the number of bits that is reckoned with."""
    modifiers = read_modifiers(recipe.settings)
    config = read_config(modifiers)
    assert needs_data(modifiers, config) == recipe.calibration
    assert is_file_by_file(modifiers, config) != recipe.calibration
    (scheme,) = config.config_groups.values()
    assert scheme.weights.num_bits == bits_of(recipe)
    assert {"lm_head", r"re:.*norm$"} <= set(config.ignore)
    assert recipe.name.startswith(f"{'fp' if scheme.weights.type == 'float' else 'int'}{scheme.weights.num_bits}")
    (group,) = groups_of(config)
    assert (group.columns, group.rows) == {"fp8-block": (128, 128), "int4-w4a16": (64, 1)}.get(recipe.name, (1, 1))


def test_smoothquant_comes_before_gptq() -> None:
    names = [type(modifier).__name__ for modifier in read_modifiers(find_recipe("int8-w8a8").settings)]
    assert names == ["SmoothQuantModifier", "GPTQModifier"]
    assert find_recipe("int8-w8a8").settings["SmoothQuantModifier"] == {"smoothing_strength": 0.8}


QUANTIZE: dict[str, Any] = {"targets": ["Linear"], "scheme": "FP8_DYNAMIC"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"QuantizingModifier": QUANTIZE}, "does not understand this recipe"),
        ({"QuantizationModifier": {**QUANTIZE, "scheme": "FP9"}}, "does not understand this recipe"),
        ({"QuantizationModifier": {**QUANTIZE, "sheme": "FP8"}}, "does not understand this recipe"),
        ({"QuantizationModifier": {**QUANTIZE, "ignore": 3}}, "does not understand this recipe"),
        ({"QuantizationModifier": {"scheme": QUANTIZE["scheme"], "targets": {"a": 1}}}, "does not understand"),
        ({"SmoothQuantModifier": {"smoothing_strength": 0.8}}, "quantizes nothing"),
        ({"QuantizationModifier": QUANTIZE, "GPTQModifier": QUANTIZE}, "one modifier that quantizes"),
        ({"QuantizationModifier": {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}}, "quantizes no weights"),
    ],
)
def test_what_the_library_does_not_understand(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_config(read_modifiers(settings))
    assert said in caught.value.what
    assert "\n" not in f"{caught.value.what}{caught.value.found}"


def test_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(f"{MINE}  QuantizationModifier: {{scheme: W4A16, targets: [Linear]}}\n")
    recipe = find_recipe(str(path))
    assert (recipe.name, recipe.hardware, recipe.format, bits_of(recipe)) == ("mine", (), "safetensors", 4)
    assert dict(recipe.settings) == {"QuantizationModifier": {"scheme": "W4A16", "targets": ["Linear"]}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a recipe is a map of keys"),
        ("- a", "a recipe is a map of keys"),
        ("a: [", "this is not YAML"),
        ("\x00", "this is not YAML"),
        (DYNAMIC.replace("calibration: false", "calibration: perhaps"), "calibration: Input should be a valid boolean"),
        (DYNAMIC.replace("description", "descripton"), "the key 'descripton' is not known"),
        (DYNAMIC.replace("name: fp8-dynamic\n", ""), "name: Field required"),
        (MINE, "a recipe for llmcompressor has modifiers"),
        (f"{MINE}  QuantizationModifier: FP8\n", "modifiers.QuantizationModifier: Input should be a valid dictionary"),
        (f"{MINE}  A: {{}}\noptions: {{type: Q8_0}}\n", "a recipe for llmcompressor has modifiers"),
        (DYNAMIC.replace("engine: llmcompressor", "engine: llama.cpp"), "a recipe for llama.cpp has options"),
        ("a" * (MAX_SIZE + 1), "too large for a recipe"),
    ],
)
def test_files_that_are_no_recipes(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        read_recipe(tmp_path / "wrong.yaml")
    assert said in caught.value.what
    assert caught.value.subject == str(tmp_path / "wrong.yaml")
    assert "\n" not in f"{caught.value.what}{caught.value.found}"


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("2024-01-01", "a"),
        ("[1, 2024-01-01 10:00:00]", "a[1]"),
        ("{b: {c: !!binary aGk=}}", "a.b.c"),
        ("{b: !!set {x}}", "a.b"),
        ("{1: x}", "a"),
        (".nan", "a"),
        ("[-.inf]", "a[0]"),
        ("0x1" + "0" * 4000, "a"),
        (r'"\ud800"', "a"),
        (r'{"\ud800": 1}', "a"),
    ],
)
def test_settings_that_json_cannot_hold(tmp_path: Path, value: str, key: str) -> None:
    """A child gets them as JSON, and the key of a result is made of them."""
    (tmp_path / "wrong.yaml").write_text(f"{MINE}  Modifier: {{a: {value}}}\n")
    with pytest.raises(UsageError) as caught:
        read_recipe(tmp_path / "wrong.yaml")
    assert caught.value.what == f"this is no value of a setting: modifiers.Modifier.{key}"
    assert str(caught.value).isprintable() or "\ud800" not in str(caught.value)


def test_settings_that_json_can_hold(tmp_path: Path) -> None:
    (tmp_path / "right.yaml").write_text(f"{MINE}  Modifier: {{a: [1, -2.5, true, null, x, {{b: '2024-01-01'}}]}}\n")
    settings = read_recipe(tmp_path / "right.yaml").settings
    assert json.loads(json.dumps(settings)) == settings


def test_bytes_that_are_no_text_and_paths_that_are_no_files(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="this is not YAML"):
        find_recipe(str(tmp_path / "bytes.yaml"))
    for path in (tmp_path, tmp_path / "nowhere.yaml", tmp_path / "bytes.yaml" / "below"):
        with pytest.raises(UsageError, match="there is no such recipe"):
            find_recipe(str(path))
