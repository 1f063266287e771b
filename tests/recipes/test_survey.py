"""What is taken for a linear layer, held against the classes that transformers makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

from recipes.recipe import shipped
from recipes.survey import Group, Weight, fused_experts, matches, survey

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = """
    llama mistral qwen2 qwen3 phi3 olmo olmo2 granite stablelm gemma gemma2 gemma3_text cohere cohere2 mixtral qwen2_moe
    qwen3_moe granitemoe jetmoe deepseek_v2 deepseek_v3 gpt_oss smollm3 starcoder2 gpt_neox opt bloom falcon mpt gptj
    gpt_neo phi glm
"""
CAUSAL = re.findall(r"\w+", NAMES)
MASKED = ("bert", "roberta", "xlm-roberta", "distilbert", "electra")
SIZES = {
    "vocab_size": 64,
    "num_hidden_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_experts": 2,
    "num_local_experts": 2,
}


def modules(name: str) -> dict[str, Any]:
    known = CONFIG_MAPPING[name]().to_dict()
    config = CONFIG_MAPPING[name](**{key: size for key, size in SIZES.items() if key in known}, pad_token_id=0)
    kind = AutoModelForMaskedLM if name in MASKED else AutoModelForCausalLM
    with torch.device("meta"):
        return dict(kind.from_config(config).named_modules())


def weights(name: str) -> list[Weight]:
    return [
        Weight(f"{module}.weight", "BF16", tuple(part.weight.shape))
        for module, part in modules(name).items()
        if isinstance(getattr(part, "weight", None), torch.Tensor)
    ]


@pytest.mark.parametrize("name", [*CAUSAL, *MASKED])
def test_linear_layers_are_those_of_transformers(name: str) -> None:
    """What the shipped recipes quantize are linear layers, and all but heads and routers."""
    (recipe,) = (recipe for recipe in shipped() if recipe.name == "fp8-dynamic")
    ignore = recipe.settings["QuantizationModifier"]["ignore"]
    parts = modules(name)
    chosen = {module.name for module in survey(weights(name), [Group("fp8")], ignore) if module.is_quantized}
    linear = {key for key, part in parts.items() if isinstance(part, torch.nn.Linear)}
    assert chosen <= linear
    left = {key for key in linear - chosen if not any(matches(key, pattern) for pattern in ignore)}
    assert not left
    assert len(chosen) >= 2
    assert all(re.search(r"lm_head$|embed_out$|gate$|router\.layer$", key) for key in linear - chosen)


def verdicts(shapes: Mapping[str, tuple[int, ...]], *groups: Group, ignore: tuple[str, ...] = ()) -> dict[str, str]:
    found = survey([Weight(f"{name}.weight", "BF16", shape) for name, shape in shapes.items()], groups, ignore)
    return {module.name: module.scheme or module.why for module in found}


def test_widths_that_no_group_fits_are_left() -> None:
    block = Group("block", columns=128, rows=128)
    assert verdicts({"a.x": (128, 256), "a.y": (128, 200), "a.z": (100, 128)}, block) == {
        "a.x": "block",
        "a.y": "its 200 columns are no multiple of 128",
        "a.z": "its 100 rows are no multiple of 128",
    }


def test_what_servers_load_as_one_stays_together() -> None:
    shapes = {"l.q_proj": (128, 128), "l.k_proj": (64, 128), "l.v_proj": (128, 128), "l.o_proj": (128, 128)}
    found = verdicts(shapes, Group("block", columns=128, rows=128))
    assert found["l.o_proj"] == "block"
    assert found["l.k_proj"] == "its 64 rows are no multiple of 128"
    reason = "k_proj beside it is left (its 64 rows are no multiple of 128), and servers load them as one"
    assert found["l.q_proj"] == found["l.v_proj"] == reason


def test_targets_and_ignore() -> None:
    shapes = {"a.x": (8, 8), "a.y": (8, 8), "b.x": (8, 8), "b.norm": (8,), "b.conv": (8, 8, 3)}
    found = verdicts(shapes, Group("one", ("re:a\\.",)), Group("two", ("b.x",)), ignore=("re:.*y$",))
    assert found == {
        "a.x": "one",
        "a.y": "the recipe leaves it",
        "b.x": "two",
        "b.norm": "one-dimensional, as norms are",
        "b.conv": "3-dimensional, no linear layer",
    }
    assert verdicts(shapes, Group("two", ("b.x",)))["a.x"] == "no group of the recipe is for it"


def test_integers_are_left_and_experts_in_one_tensor_found() -> None:
    (module,) = survey([Weight("a.weight", "I8", (8, 8))], [Group("fp8")], ())
    assert module.why == "already I8"
    fused = Weight("model.layers.0.mlp.experts.gate_up_proj", "BF16", (4, 8, 8))
    assert fused_experts([Weight("a.weight", "BF16", (8, 8)), fused]) == fused
    assert fused_experts([Weight("conv.weight", "BF16", (8, 8, 3))]) is None
