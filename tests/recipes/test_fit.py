"""Which recipes fit which models: told before anything is loaded, or by what came of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from formats.checkpoint import Checkpoint
from packer.sources import parse_source
from recipes.fit import misfit, require_fit, weight_files
from recipes.recipe import find_recipe, shipped
from registry.errors import UsageError
from tests.models import compressed
from tests.parts import tiny
from tests.parts.command import events, packer
from tests.parts.layers import give_words, llama

pytestmark = pytest.mark.filterwarnings("ignore")

SAFETENSORS = {recipe.name for recipe in shipped() if recipe.format == "safetensors"}
DATA_FREE = {recipe.name for recipe in shipped() if recipe.format == "safetensors" and not recipe.calibration}
GGUF = {recipe.name for recipe in shipped() if recipe.format == "gguf"}


def bare(folder: Path) -> Path:
    return llama(folder)


def speaking(folder: Path) -> Path:
    return give_words(llama(folder))


def gpt2(folder: Path) -> Path:
    GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=16)).save_pretrained(folder)
    return give_words(folder)


def bert(folder: Path) -> Path:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=64, max_position_embeddings=16, **sizes)).save_pretrained(folder)
    return give_words(folder)


def adapter(folder: Path) -> Path:
    names = [f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight" for side in "AB"]
    folder.mkdir()
    weights = {names[0]: torch.ones(2, 8), names[1]: torch.ones(8, 2)}
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "a/b",
    }
    (folder / "adapter_config.json").write_text(json.dumps(said))
    return folder


def quantized(folder: Path) -> Path:
    return tiny.write_folder(folder, compressed.files(compressed.config("dynamic"), compressed.tensors("dynamic")))


def gguf(folder: Path) -> Path:
    return tiny.write_folder(folder, {"model.gguf": tiny.GOOD_GGUF})


def weights_alone(folder: Path) -> Path:
    return tiny.write_folder(folder, {"model.safetensors": tiny.GOOD})


def integers(folder: Path) -> Path:
    weights = tiny.safetensors_bytes({"a.weight": tiny.tensor(0, 16, "I32", [2, 2])}, bytes(16))
    return tiny.write_folder(folder, {"model.safetensors": weights, "config.json": b'{"model_type": "tiny"}'})


@pytest.mark.parametrize(
    ("make", "recipe", "reason", "fitting"),
    [
        (bare, "fp8-static", "there is no tokenizer", DATA_FREE),
        (bare, "gguf-q8_0", "it is for gguf, and these weights are safetensors", DATA_FREE),
        (speaking, "onnx-int8-dynamic", "it is for onnx, and these weights are safetensors", SAFETENSORS),
        (gguf, "fp8-dynamic", "it is for safetensors, and these weights are gguf", GGUF),
        (gpt2, "fp8-dynamic", "the layers of gpt2 are no Linear ones", set()),
        (bert, "int8-w8a8", "BertModel does not", DATA_FREE),
        (adapter, "fp8-dynamic", "merge it into its base first", set()),
        (quantized, "fp8-dynamic", "it is quantized already (compressed-tensors)", set()),
        (weights_alone, "fp8-dynamic", "there is no config.json", set()),
        (integers, "fp8-dynamic", "none of its weights are floating point numbers", set()),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(
    make: Callable[[Path], Path], recipe: str, reason: str, fitting: set[str], tmp_path: Path
) -> None:
    checkpoint = Checkpoint(parse_source(str(make(tmp_path / "model"))).fetch())
    with pytest.raises(UsageError) as caught:
        require_fit(find_recipe(recipe), checkpoint)
    error = caught.value
    assert reason in error.what
    expected = str(error.expected)
    assert set(expected.removeprefix("one of ").split(", ")) == fitting or (not fitting and "one of" not in expected)
    for name in fitting:
        require_fit(find_recipe(name), checkpoint)


def test_a_recipe_that_fits(tmp_path: Path) -> None:
    checkpoint = Checkpoint(parse_source(str(speaking(tmp_path / "model"))).fetch())
    assert {recipe.name for recipe in shipped() if not misfit(recipe, checkpoint)} == SAFETENSORS


def test_the_exit_code_is_that_of_a_wrong_word(tmp_path: Path) -> None:
    for make in (gpt2, adapter, quantized):
        done = packer(
            "quantize", make(tmp_path / make.__name__), tmp_path / "made", "--recipe", "fp8-dynamic", check=False
        )
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
        assert done.stderr.count("error: ") == 1
        assert "one of" not in done.stderr
        assert not (tmp_path / "made").exists()


def test_another_copy_of_the_weights_is_none_of_the_recipes_business(tmp_path: Path) -> None:
    folder = llama(tmp_path / "model")
    (folder / "original").mkdir()
    (folder / "original/model.safetensors").write_bytes(tiny.GOOD)
    (folder / "other.safetensors").write_bytes(tiny.GOOD)
    checkpoint = Checkpoint(parse_source(str(folder)).fetch())
    names = [file.name for file in weight_files(find_recipe("fp8-dynamic"), checkpoint)]
    assert names == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


# ---- mixtures of experts

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture whose experts have tensors of their own in its file, and none in transformers."""
    folder = tmp_path_factory.mktemp("mixture") / "model"
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(**SIZES)).to(torch.bfloat16).save_pretrained(folder)
    return give_words(folder)


def test_experts_are_quantized_one_by_one_and_routers_and_heads_left(mixture: Path, tmp_path: Path) -> None:
    last = events("quantize", mixture, tmp_path / "made", "--recipe", "fp8-dynamic")[-1]
    schemes = {module["name"]: module["scheme"] for module in last["modules"]}
    chosen = {re.sub(r"(?<=\.)\d+(?=\.)", "N", name) for name, scheme in schemes.items() if scheme}
    experts = {f"model.layers.N.block_sparse_moe.experts.N.w{number}" for number in (1, 2, 3)}
    assert chosen == experts | {f"model.layers.N.self_attn.{letter}_proj" for letter in "qkvo"}
    why = {module["name"]: module["why"] for module in last["modules"]}
    assert why["lm_head"] == why["model.layers.1.block_sparse_moe.gate"] == "the recipe leaves it"
    before, after = load_file(mixture / "model.safetensors"), load_file(tmp_path / "made/model.safetensors")
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    ids = torch.arange(12)[None]
    with torch.no_grad():
        source, made = (
            AutoModelForCausalLM.from_pretrained(folder, dtype="auto")(ids).logits.float()
            for folder in (mixture, tmp_path / "made")
        )
    assert 0 < (source - made).abs().max() < source.abs().max() / 10


def test_experts_that_would_get_names_that_nothing_reads(mixture: Path, tmp_path: Path) -> None:
    """llmcompressor renames them where it loads a model: those that lie in one tensor, and those of Mixtral."""
    torch.manual_seed(0)
    GptOssForCausalLM(GptOssConfig(**SIZES, head_dim=16)).to(torch.bfloat16).save_pretrained(tmp_path / "fused")
    few = ("--samples", "16", "--max-length", "16")
    for model, recipe, options, gone in (
        (tmp_path / "fused", "fp8-dynamic", (), "mlp.experts.down_proj, and 7 more"),
        (mixture, "fp8-static", few, "block_sparse_moe.experts.0.w1.weight, and 11 more"),
    ):
        done = packer("quantize", model, tmp_path / "made", "--recipe", recipe, *options, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (3, False), done.stderr
        assert "names under which nothing looks for them" in done.stderr
        assert gone in done.stderr
        assert not [*tmp_path.glob("made/**/*.safetensors")]
        assert ("holds all experts at once: the model is loaded" in done.stderr) == (recipe == "fp8-dynamic")
