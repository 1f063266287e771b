"""Models that a recipe is refused for by their names alone, before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from formats.checkpoint import Checkpoint
from packer.sources import parse_source
from recipes.fit import CONDITIONAL, misfit
from recipes.recipe import find_recipe
from tests.parts.layers import give_words, llama


def reason(folder: Path, recipe: str) -> str:
    return misfit(find_recipe(recipe), Checkpoint(parse_source(str(folder)).fetch()))


def named(folder: Path, architecture: str, **config: Any) -> Path:
    """A model that says that it is of another architecture: what is asked here are names."""
    llama(folder, architectures=[architecture], **config)
    return give_words(folder)


def test_weights_in_a_folder_below(tmp_path: Path) -> None:
    model = llama(tmp_path / "model/below")
    (model / "config.json").rename(tmp_path / "model/config.json")
    said = reason(tmp_path / "model", "fp8-dynamic")
    assert said == ("its weights lie in a folder below, where no recipe looks: below/model-00001-of-00003.safetensors")
    assert "these weights are safetensors" in reason(tmp_path / "model", "gguf-q8_0")


@pytest.mark.parametrize(
    ("architecture", "config", "said"),
    [
        ("T5ForConditionalGeneration", {"is_encoder_decoder": True}, "T5ForConditionalGeneration has an encoder"),
        ("BartForConditionalGeneration", {"is_encoder_decoder": True}, "has an encoder"),
        ("MarianForCausalLM", {"is_encoder_decoder": True}, "has an encoder"),
        ("T5ForConditionalGeneration", {}, "T5ForConditionalGeneration does not go on with text"),
        ("Qwen2VLForConditionalGeneration", {}, "does not go on with text"),
        ("Gemma3ForConditionalGeneration", {}, ""),
        ("LlamaForCausalLM", {"is_encoder_decoder": False}, ""),
    ],
)
def test_what_does_not_go_on_with_a_text_is_not_calibrated_on_one(
    tmp_path: Path, architecture: str, config: dict[str, Any], said: str
) -> None:
    model = named(tmp_path / "model", architecture, **config)
    assert json.loads((model / "config.json").read_text())["architectures"] == [architecture]
    assert reason(model, "int8-w8a8").endswith(said) if said else reason(model, "int8-w8a8") == ""
    assert reason(model, "int8-w8a16") == ""


def test_transformers_loads_those_that_are_called_otherwise() -> None:
    """All that its AutoModelForCausalLM maps to a class of such a name."""
    ends = "ForConditionalGeneration"
    assert {name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() if name.endswith(ends)} == CONDITIONAL
