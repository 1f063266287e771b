"""Every shipped recipe for safetensors on a real model cut short: the weights are as near as the scheme allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils.quantization_config import CompressedTensorsConfig

from formats.checkpoint import Checkpoint
from packer.sources import parse_source
from tests.parts.command import events, packer
from tests.parts.models import digests
from tests.parts.small import cut_short

pytestmark = pytest.mark.filterwarnings("ignore")

Array = numpy.ndarray[Any, Any]
Steps = Callable[[Array], Array]
"""From a weight to the distance between the two numbers of the scheme that each element lies between."""

CALIBRATED = ("--samples", "16", "--max-length", "64")
TEXT = "The capital of France is Paris, and the capital of Italy is Rome. It was the best of times, it was the worst."


def float8(weight: Array, amax: Array) -> Array:
    """E4M3 with a scale that takes the largest element to 448; numbers below 2**-6 are as far apart as those at it."""
    scale = amax / 448
    exponents = numpy.floor(numpy.log2(numpy.maximum(numpy.abs(weight / scale), 2.0**-6)))
    return scale * 2.0 ** (exponents - 3)


def integer(bits: int) -> Callable[[Array, Array], Array]:
    """Symmetric integers, of which the range of 2**bits - 1 steps spans the largest element both ways."""
    return lambda weight, amax: numpy.broadcast_to(2 * amax / (2**bits - 1), weight.shape)


def per_channel(kind: Callable[[Array, Array], Array]) -> Steps:
    return lambda weight: kind(weight, numpy.abs(weight).max(1, keepdims=True))


def per_tensor(kind: Callable[[Array, Array], Array]) -> Steps:
    return lambda weight: kind(weight, numpy.abs(weight).max(keepdims=True))


def per_group(kind: Callable[[Array, Array], Array], size: int) -> Steps:
    def steps(weight: Array) -> Array:
        groups = weight.reshape(len(weight), -1, size)
        return kind(groups, numpy.abs(groups).max(2, keepdims=True)).reshape(weight.shape)

    return steps


def per_block(kind: Callable[[Array, Array], Array], size: int) -> Steps:
    def steps(weight: Array) -> Array:
        blocks = weight.reshape(weight.shape[0] // size, size, weight.shape[1] // size, size)
        return kind(blocks, numpy.abs(blocks).max((1, 3), keepdims=True)).reshape(weight.shape)

    return steps


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cut_short(tmp_path_factory.mktemp("small") / "model")


@pytest.fixture(scope="module")
def quantized(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder that `packer quantize` makes with a recipe, once for all tests."""
    made: dict[str, Path] = {}

    def folder(recipe: str, *options: str) -> Path:
        if recipe not in made:
            made[recipe] = tmp_path_factory.mktemp("quantized") / recipe
            packer("quantize", small, made[recipe], "--recipe", recipe, *options, timeout=500)
        return made[recipe]

    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def dequantized(folder: Path) -> Iterator[tuple[str, Array]]:
    """Each quantized weight as compressed-tensors reads it."""
    config = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    there = tensors(folder)
    for name, tensor in model.state_dict().items():
        if f"{name}_scale" in there:
            yield name, tensor.double().numpy()


def logits(folder: Path, small: Path) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(small)(TEXT, return_tensors="pt")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return torch.log_softmax(model(**ids).logits, -1)


def divergence(folder: Path, small: Path) -> float:
    """Mean KL divergence from the source's next tokens to the quantized model's, in nats."""
    source, other = logits(small, small), logits(folder, small)
    return float((source.exp() * (source - other)).sum(-1).mean())


ROUNDED = {
    "fp8-dynamic": (per_channel(float8), 1.0001, 0.03),
    "int8-w8a8-rtn": (per_channel(integer(8)), 1.0001, 0.06),
    "int8-w8a16": (per_channel(integer(8)), 1.0001, 0.005),
    # llmcompressor loads this one and computes in the model's bfloat16: a scale with 8 bits adds a 16th of a step
    "fp8-static": (per_tensor(float8), 1.07, 0.06),
}


@pytest.mark.parametrize("recipe", ROUNDED)
def test_rounded_to_nearest(recipe: str, quantized: Callable[..., Path], small: Path) -> None:
    """No weight is further from the source's than half the distance between two numbers of the scheme."""
    steps, allowance, most = ROUNDED[recipe]
    folder = quantized(recipe, *(CALIBRATED if recipe == "fp8-static" else ()))
    source, count = tensors(small), 0
    for name, weight in dequantized(folder):
        original = source[name].double().numpy()
        assert (numpy.abs(weight - original) <= steps(original) / 2 * allowance).all(), name
        assert (weight != original).any()
        count += 1
    assert count == 28
    assert 0 < divergence(folder, small) < most


CORRECTED = {
    "int8-w8a8": (per_channel(integer(8)), 2, 0.06),
    "int4-w4a16": (per_group(integer(4), 64), 3, 0.3),
}


@pytest.mark.parametrize("recipe", CORRECTED)
def test_rounding_that_is_corrected_on_data(recipe: str, quantized: Callable[..., Path], small: Path) -> None:
    """GPTQ moves weights to make up for the rounding of others, so each may be further away, but all together hardly.

    SmoothQuant moves scales from what comes in to the weights; the norms before them tell which.
    """
    steps, times, most = CORRECTED[recipe]
    folder = quantized(recipe, *CALIBRATED)
    source, made = tensors(small), tensors(folder)
    for name, weight in dequantized(folder):
        original = source[name].double().numpy() * smoothing(name, source, made)
        step = steps(original)
        error = (weight - original) / step
        assert numpy.sqrt((error**2).mean()) < times * numpy.sqrt(1 / 12), name  # that of numbers rounded to nearest
        assert numpy.quantile(numpy.abs(error), 0.999) < 6, name
    assert 0 < divergence(folder, small) < most


def smoothing(name: str, source: dict[str, torch.Tensor], made: dict[str, torch.Tensor]) -> Array:
    """By how much each column of a weight was multiplied: by what the norm before it was divided by."""
    layer, module = name.rsplit(".", 3)[0], name.split(".")[-2]
    before = {"q_proj": "input", "k_proj": "input", "v_proj": "input", "gate_proj": "post_attention"}
    norm = f"{layer}.{before.get(module, 'post_attention' if module == 'up_proj' else '')}_layernorm.weight"
    if norm not in source:
        return numpy.ones(1)
    factors: Array = (source[norm].double() / made[norm].double()).numpy()
    return factors


def test_blocks(tmp_path: Path) -> None:
    """SmolLM2's 576 columns are no whole blocks; a model of whole ones is quantized, and its odd layers left."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "model")
    last = events("quantize", tmp_path / "model", tmp_path / "made", "--recipe", "fp8-block")[-1]
    left = {module["name"]: module["why"] for module in last["modules"] if not module["scheme"]}
    assert left["model.layers.0.self_attn.k_proj"] == "its 64 rows are no multiple of 128"
    assert "servers load them as one" in left["model.layers.1.self_attn.q_proj"]
    source, count = tensors(tmp_path / "model"), 0
    for name, weight in dequantized(tmp_path / "made"):
        original = source[name].double().numpy()
        assert (numpy.abs(weight - original) <= per_block(float8, 128)(original) / 2 * 1.0001).all()
        count += 1
    assert count == 8
    ids = torch.arange(8)[None]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=torch.float32)
    assert torch.isfinite(loaded(ids).logits).all()


def test_blocks_that_fit_nothing_are_refused_with_the_reason(small: Path, tmp_path: Path) -> None:
    done = packer("quantize", small, tmp_path / "made", "--recipe", "fp8-block", check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)
    assert "576 columns are no multiple of 128" in done.stderr


def test_everything_else_stays_as_it_was(quantized: Callable[..., Path], small: Path) -> None:
    """The embedding's shard, the tokenizer and all that is small but for config, index and card."""
    before, after = digests(small), digests(quantized("fp8-dynamic"))
    changed = {name for name in before if after[name] != before[name]}
    shards = {"model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"}
    assert changed == {*shards, "config.json", "model.safetensors.index.json", "README.md"}
    assert before.keys() == after.keys()
    config = json.loads((quantized("fp8-dynamic") / "config.json").read_text())
    assert config.pop("quantization_config")["quant_method"] == "compressed-tensors"
    assert config == json.loads((small / "config.json").read_text())
    card = (quantized("fp8-dynamic") / "README.md").read_text()
    assert card.startswith((small / "README.md").read_text())
    assert "28 modules: float8 per channel, activations float8 per token" in card


def test_a_calibrated_result_has_the_shards_of_its_source(quantized: Callable[..., Path], small: Path) -> None:
    before, after = digests(small), digests(quantized("int4-w4a16", *CALIBRATED))
    assert before.keys() == after.keys()
    assert after["model-00001-of-00003.safetensors"] == before["model-00001-of-00003.safetensors"]
    assert "16 samples from packer's own" in (quantized("int4-w4a16") / "README.md").read_text()


def test_the_same_bytes_again(quantized: Callable[..., Path], small: Path, tmp_path: Path) -> None:
    """By however many threads."""
    packer("quantize", small, tmp_path / "again", "--recipe", "fp8-dynamic", env={"OMP_NUM_THREADS": "3"})
    assert digests(tmp_path / "again") == digests(quantized("fp8-dynamic"))


@pytest.mark.parametrize("scale", [0.0, float("nan"), -1.0, 1000.0])
def test_a_wrong_scale_is_caught(quantized: Callable[..., Path], tmp_path: Path, scale: float) -> None:
    """In one channel of one module, as a flipped bit on a disk would make it."""
    folder = tmp_path / "planted"
    folder.mkdir()
    for path in quantized("fp8-dynamic").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = folder / "model-00002-of-00003.safetensors"
    planted = load_file(shard)
    planted["model.layers.1.mlp.up_proj.weight_scale"][7] *= scale
    save_file(planted, shard, metadata={"format": "pt"})
    assert packer("validate", quantized("fp8-dynamic")).returncode == 0
    done = packer("validate", folder, check=False)
    assert done.returncode == 3
    assert "model.layers.1.mlp.up_proj.weight_scale" in done.stdout


def test_what_comes_out_is_a_checkpoint(quantized: Callable[..., Path], small: Path) -> None:
    """With as many parameters as before: scales are none, and a packed number is several."""
    source = Checkpoint(parse_source(str(small)).fetch())
    for recipe in ("fp8-dynamic", "int8-w8a16"):
        checkpoint = Checkpoint(parse_source(str(quantized(recipe))).fetch())
        assert checkpoint.card.parameters == source.card.parameters
        assert checkpoint.card.quantization == "compressed-tensors"
        assert not checkpoint.findings
