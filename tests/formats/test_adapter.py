"""LoRA adapters: a real one, made by peft on the spot, and ways to be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from formats.checkpoint import Checkpoint
from formats.examine import Report, examine
from packer.sources import parse_source

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter over a tiny Llama, with another rank for one module."""
    folder = tmp_path_factory.mktemp("adapter")
    base = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=64, head_dim=8
        )
    )
    ranks = {"layers.1.self_attn.q_proj": 2}
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], rank_pattern=ranks)
    get_peft_model(base, config).save_pretrained(str(folder))
    document = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**document, "base_model_name_or_path": "acme/tiny"}))
    return folder


@pytest.fixture
def adapter(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "adapter"))


def look(folder: Path) -> Report:
    return examine(parse_source(str(folder)).fetch())


def broken(folder: Path) -> set[str]:
    return {finding.rule.id for finding in look(folder).findings}


def change(folder: Path, **members: Any) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **members}))


def test_a_real_adapter(adapter: Path) -> None:
    card = Checkpoint(parse_source(str(adapter)).fetch()).card
    assert (card.adapts, card.format) == ("acme/tiny", "safetensors")
    assert broken(adapter) == set()


def test_another_rank(adapter: Path) -> None:
    change(adapter, r=8)
    found = [finding for finding in look(adapter).findings if finding.rule.id == "model-adapter-rank"]
    assert len(found) == 6, "all but the module with a rank of its own"
    assert {finding.expected for finding in found} == {"rank 8"}


@pytest.mark.parametrize(
    ("members", "rule"),
    [
        ({"r": 0}, "model-adapter-config"),
        ({"r": "4"}, "model-adapter-config"),
        ({"target_modules": None}, "model-adapter-config"),
        ({"rank_pattern": [1]}, "model-adapter-config"),
        ({"target_modules": ["q_proj"]}, "model-adapter-targets"),
        ({"target_modules": ["q_proj", "v_proj", "o_proj"]}, "model-adapter-targets"),
        ({"base_model_name_or_path": None}, "model-adapter-base"),
        ({"target_modules": "all-linear"}, ""),
    ],
)
def test_a_config_that_is_wrong(adapter: Path, members: dict[str, Any], rule: str) -> None:
    change(adapter, **members)
    assert broken(adapter) == ({rule} if rule else set())


def test_half_a_pair(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    del tensors[name]
    save_file(tensors, adapter / WEIGHTS)
    assert broken(adapter) == {"model-adapter-pair"}


def test_an_adapter_without_weights(adapter: Path) -> None:
    save_file({"unrelated": torch.zeros(1)}, adapter / WEIGHTS)
    assert "model-adapter-targets" in broken(adapter)
