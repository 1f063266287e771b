"""config.json against shapes: those that transformers makes of a config pass, and of another config they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForMaskedLM

from formats.config import check_config
from formats.examine import examine
from formats.tensors import TensorInfo
from fuzz.subject import snapshot_of
from registry.names import relative_path

pytestmark = pytest.mark.filterwarnings("ignore")

Shapes = dict[str, tuple[int, ...]]

LLAMAS = "llama mistral qwen2 qwen3 phi3 olmo olmo2 granite stablelm gemma gemma2 gemma3_text cohere cohere2"
MIXED = "mixtral qwen2_moe qwen3_moe deepseek_v2 deepseek_v3 gpt_oss smollm3 starcoder2"
MASKED = frozenset(("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"))
NAMES = (*LLAMAS.split(), *MIXED.split(), "gpt2", "gpt_neox", *sorted(MASKED))

HIDDEN, HEADS, FEED, DEPTH = (
    *(("hidden_size", "n_embd", "dim"), ("num_attention_heads", "n_head", "n_heads")),
    *(("intermediate_size", "n_inner", "hidden_dim"), ("num_hidden_layers", "n_layer", "n_layers")),
)
SIZES: dict[str, int] = {
    **dict.fromkeys(HIDDEN, 24),
    **dict.fromkeys(HEADS, 4),
    **dict.fromkeys(FEED, 36),
    **dict.fromkeys(DEPTH, 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("first_k_dense_replace", "n_group", "topk_group"), 1),
    "vocab_size": 64,
    "head_dim": 10,
    "moe_intermediate_size": 28,
    "shared_expert_intermediate_size": 44,
    "embedding_size": 20,
    "q_lora_rank": 8,
    "kv_lora_rank": 6,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 5,
    "pad_token_id": 0,
}


def model(name: str, device: str, **changed: int) -> Any:
    """A small model of an architecture."""
    known = CONFIG_MAPPING[name]().to_dict()
    config = CONFIG_MAPPING[name](**{key: size for key, size in {**SIZES, **changed}.items() if key in known})
    kind = AutoModelForMaskedLM if name in MASKED else AutoModelForCausalLM
    with torch.device(device):
        return kind.from_config(config)


def made(name: str, **changed: int) -> tuple[dict[str, Any], Shapes]:
    """Its config, and the shapes of its tensors."""
    small = model(name, "meta", **changed)
    return small.config.to_dict(), {key: tuple(value.shape) for key, value in small.state_dict().items()}


def broken(config: dict[str, Any], shapes: Shapes, dtype: str = "BF16") -> set[str]:
    file = relative_path("model.safetensors", "")
    tensors = {name: TensorInfo(name, dtype, shape, file, 0, 0) for name, shape in shapes.items()}
    return {finding.rule.id for finding in check_config(config, tensors)}


@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_makes(name: str) -> None:
    config, shapes = made(name)
    assert broken(config, shapes) == set()
    given = {key: value for key, value in config.items() if key != "head_dim"}
    if "head_dim" in config and not name.startswith("deepseek"):
        assert broken(given, shapes) & {"model-config-shape"}, "the head has another size than by itself"


@pytest.mark.parametrize("name", NAMES)
def test_what_transformers_writes(tmp_path: Path, name: str) -> None:
    model(name, "cpu").save_pretrained(tmp_path)
    assert [finding.to_json() for finding in examine(snapshot_of(tmp_path)).findings] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keys", [HIDDEN, HEADS, FEED, ("num_key_value_heads",)])
def test_another_size(name: str, keys: tuple[str, ...]) -> None:
    config, shapes = made(name)
    key = next((key for key in keys if key in config), "")
    latent = name.startswith("deepseek") and keys in (HEADS, ("num_key_value_heads",))
    masked = name in MASKED or name.startswith("gpt_neo") or name == "gpt2"
    fused = keys == FEED and name in ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss")
    if not key or latent or fused or (masked and keys == HEADS):
        return  # of the shapes of a model this size says nothing, or not in the form that is asked
    assert broken({**config, key: config[key] * 2}, shapes) >= {"model-config-shape"}


@pytest.mark.parametrize("name", ["llama", "qwen3", "bert", "gpt2"])
@pytest.mark.parametrize("dtype", ["U8", "I8", "I32", "F4"])
def test_weights_that_may_be_packed_are_passed_over(name: str, dtype: str) -> None:
    config, shapes = made(name)
    packed = {key: (1, *shape) for key, shape in shapes.items()}
    assert "model-config-shape" not in broken(config, packed, dtype)
    assert "model-config-shape" in broken(config, packed, "F8_E4M3")


MIXTURES = {
    "mixtral": ("block_sparse_moe.experts.1.w1", "intermediate_size"),
    "qwen2_moe": ("mlp.experts.1.gate_proj", "moe_intermediate_size"),
    "qwen3_moe": ("mlp.experts.1.up_proj", "moe_intermediate_size"),
    "deepseek_v3": ("mlp.experts.1.up_proj", "moe_intermediate_size"),
}


@pytest.mark.parametrize("name", MIXTURES)
def test_experts(name: str) -> None:
    config, shapes = made(name)
    part, key = MIXTURES[name]
    weight = f"model.layers.1.{part}.weight"
    assert "model-config-shape" not in broken(config, {**shapes, weight: (config[key], 24)})
    assert "model-config-shape" in broken(config, {**shapes, weight: (config[key] + 1, 24)})


def test_mistrals_own_names() -> None:
    config, _ = made("mistral")
    own: Shapes = {"tok_embeddings.weight": (64, 24), "output.weight": (64, 24), "norm.weight": (24,)}
    own |= {f"layers.{at}.attention.wq.weight": (40, 24) for at in (0, 1)}
    assert broken(config, own) == set()
    assert broken(config, {**own, "layers.1.attention.wq.weight": (24, 24)}) == {"model-config-shape"}


def test_other_towers_are_not_compared() -> None:
    config, shapes = made("llama")
    assert broken(config, {**shapes, "vision_tower.layers.0.self_attn.q_proj.weight": (7, 7)}) == set()


def test_the_first_llamas_do_not_tell_their_heads_of_keys() -> None:
    config, shapes = made("llama", num_key_value_heads=4)
    assert broken({key: value for key, value in config.items() if key != "num_key_value_heads"}, shapes) == set()
    config, shapes = made("mistral")
    assert broken({key: value for key, value in config.items() if key != "num_key_value_heads"}, shapes) == set()


def test_a_model_with_classes_of_its_own_is_only_told() -> None:
    config, shapes = made("gpt2")
    shapes["transformer.h.1.attn.c_attn.weight"] = (24, 36)  # one head of keys for all, as SantaCoder has it
    file = relative_path("model.safetensors", "")
    tensors = {name: TensorInfo(name, "F32", shape, file, 0, 0) for name, shape in shapes.items()}
    for members, refuses in (({}, True), ({"auto_map": {"AutoModel": "modeling.Model"}}, False)):
        findings = list(check_config({**config, **members}, tensors))
        assert [(each.rule.id, each.refuses) for each in findings] == [("model-config-shape", refuses)]


def test_heads_that_were_pruned_are_passed_over() -> None:
    config, shapes = made("bert")
    shapes["bert.encoder.layer.1.attention.self.query.weight"] = (18, 24)
    assert broken(config, shapes) == {"model-config-shape"}
    assert broken({**config, "pruned_heads": {"1": [0]}}, shapes) == set()
