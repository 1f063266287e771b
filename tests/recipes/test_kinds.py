"""Models of many kinds, quantized by the engine in this process and loaded by transformers: all say nearly the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedTokenizerFast

from recipes.engines import files as engine_files
from recipes.engines import llmcompressor
from recipes.recipe import find_recipe
from recipes.task import PARTIAL, Done, Step, Task
from registry.errors import SpaceError

pytestmark = pytest.mark.filterwarnings("ignore")

SIZES = {
    **dict.fromkeys(("hidden_size", "dim", "d_model", "embedding_size"), 64),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 96),
    **dict.fromkeys(("num_hidden_layers", "n_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_heads", "encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    "moe_intermediate_size": 32,
    "max_position_embeddings": 64,
    "head_dim": 16,
    "vocab_size": 64,
    "pad_token_id": 0,
}
WORDS = [f"w{number}" for number in range(60)]


def saved(folder: Path, kind: str, **more: Any) -> Path:
    """A tiny model of a class of transformers, with random weights, in bfloat16."""
    torch.manual_seed(0)
    model_class = getattr(transformers, kind)
    name = model_class.config_class.model_type
    known = CONFIG_MAPPING[name]().to_dict()
    sizes = {key: size for key, size in {**SIZES, **more}.items() if key in known}
    model = model_class(CONFIG_MAPPING[name](**sizes)).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)  # so that what it says depends on its weights
    model.save_pretrained(folder)
    return folder


def quantized(source: Path, target: Path, recipe: str, **more: Any) -> Done:
    """What the engine makes of all weight files, put together with the rest as the stage does."""
    target.mkdir()
    names = tuple(sorted(path.name for path in source.glob("*.safetensors")))
    settings = find_recipe(recipe).settings if isinstance(recipe, str) else recipe
    done = llmcompressor.run(
        Task("llmcompressor", settings, source, target, names, device="cpu", **more), lambda _: None
    )
    for path in source.iterdir():
        if path.name not in done.files:
            shutil.copy(path, target)
    config = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "quantization_config": dict(done.config)}))
    return done


def logits(folder: Path) -> torch.Tensor:
    config = AutoConfig.from_pretrained(folder)
    model = getattr(transformers, config.architectures[0]).from_pretrained(folder)
    ids = torch.arange(2, 12)[None]
    inputs: dict[str, Any] = {"input_ids": ids}
    if config.model_type == "whisper":
        inputs = {"input_features": torch.ones(1, config.num_mel_bins, 128).to(model.dtype), "decoder_input_ids": ids}
    with torch.no_grad():
        return model(**inputs).logits.float()


KINDS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {"tie_word_embeddings": True},
    "Qwen3ForCausalLM": {"tie_word_embeddings": False},
    "MixtralForCausalLM": {},
    "Qwen3MoeForCausalLM": {"decoder_sparse_step": 1},
    "GraniteMoeForCausalLM": {},
    "GPTNeoXForCausalLM": {},
    "BertForMaskedLM": {},
    "RobertaForMaskedLM": {"pad_token_id": 1, "max_position_embeddings": 66},
    "AlbertForMaskedLM": {"embedding_size": 32},
    "DistilBertForMaskedLM": {},
    "WhisperForConditionalGeneration": {
        "max_source_positions": 64,
        "max_target_positions": 64,
        "num_mel_bins": 16,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "decoder_start_token_id": 1,
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_file_by_file(kind: str, tmp_path: Path) -> None:
    source = saved(tmp_path / "source", kind, **KINDS[kind])
    done = quantized(source, tmp_path / "made", "fp8-dynamic")
    assert sum(module.is_quantized for module in done.modules) >= 4
    before, after = logits(source), logits(tmp_path / "made")
    assert torch.isfinite(after).all()
    assert (after - before).abs().mean() < 0.5 * before.std()  # a router may choose another expert
    assert not torch.equal(after, before)


def test_a_tied_head_that_the_recipe_does_not_name(tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "LlamaForCausalLM", tie_word_embeddings=True)
    settings: Any = {"QuantizationModifier": {"targets": ["Linear"], "scheme": "FP8_DYNAMIC"}}
    done = quantized(source, tmp_path / "made", settings)
    assert "lm_head" in done.config["ignore"]
    assert (logits(tmp_path / "made") - logits(source)).abs().mean() < 0.3 * logits(source).std()


def test_a_group_that_names_modules_goes_before_one_that_means_all(tmp_path: Path) -> None:
    source = saved(tmp_path / "source", "LlamaForCausalLM")
    weights = {"type": "int", "strategy": "channel", "symmetric": True}
    groups = {
        "all": {"targets": ["Linear"], "weights": {"num_bits": 8, **weights}},
        "down": {"targets": ["re:.*down_proj$"], "weights": {"num_bits": 4, **weights}},
    }
    settings: Any = {"QuantizationModifier": {"config_groups": groups, "ignore": ["lm_head"]}}
    done = quantized(source, tmp_path / "made", settings)
    schemes = {module.name.rpartition(".")[2]: module.scheme for module in done.modules}
    assert (schemes["down_proj"], schemes["up_proj"]) == ("int4 per channel", "int8 per channel")
    assert torch.isfinite(logits(tmp_path / "made")).all()


TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ message.content + ' ' }}{% endfor %}"
)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A model with what real ones have: a draft layer, norms in float32, settings that transformers will not save,
    and a template that takes no system's words.
    """
    source = saved(tmp_path / "odd", "LlamaForCausalLM", hidden_size=64, tie_word_embeddings=True)
    tensors = load_file(source / "model.safetensors")
    tensors = {name: tensor.float() if "norm" in name else tensor for name, tensor in tensors.items()}
    tensors["model.norm.weight"] += 1e-4  # not to be had in bfloat16
    tensors |= {"mtp.fc.weight": torch.ones(8, 64).bfloat16(), "mtp.norm.weight": torch.ones(8)}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    settings = {"do_sample": False, "temperature": 0.6, "top_p": 0.9}
    (source / "generation_config.json").write_text(json.dumps(settings))
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(["<unk>", *WORDS])}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, chat_template=TEMPLATE).save_pretrained(source)
    return source


def test_a_loaded_model_keeps_what_transformers_does_not_load(odd: Path, tmp_path: Path) -> None:
    rows = [{"role": "system", "content": "w1 w2"}], [{"role": "user", "content": " ".join(WORDS[:40])}]
    samples = tmp_path / "samples.jsonl"
    samples.write_text("".join(json.dumps({"messages": rows[0] * (at % 2) + rows[1]}) + "\n" for at in range(16)))
    told: list[Step | str] = []
    target = tmp_path / "made"
    target.mkdir()
    settings = find_recipe("int4-w4a16").settings
    task = Task("llmcompressor", settings, odd, target, ("model.safetensors",), "cpu", samples, 64)
    done = llmcompressor.run(task, told.append)
    assert "the chat template refuses 8 of 16 samples as they are: they go in a simpler form" in told
    before, after = load_file(odd / "model.safetensors"), load_file(target / "model.safetensors")
    kept = [name for name in before if "mtp" in name or "norm" in name or "embed" in name]
    assert len(kept) == 8
    for name in kept:
        assert (after[name].dtype, torch.equal(after[name], before[name])) == (before[name].dtype, True), name
    assert "mtp.fc" in done.config["ignore"]
    assert {module.name for module in done.modules if module.is_quantized} == {
        name.removesuffix(".weight_packed") for name in after if name.endswith(".weight_packed")
    }
    assert not list(target.glob(f"{PARTIAL}*"))


def test_a_file_that_was_stopped_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    """Two workers, of which one fails: what the other was at has no name that is taken for whole."""
    source = saved(tmp_path / "source", "LlamaForCausalLM", num_hidden_layers=6)
    change(source)
    monkeypatch.setattr(engine_files, "_workers", lambda *_: 2)
    quantize, target = engine_files._quantize, tmp_path / "made"

    def failing(path: Path, scratch: Path, convert: Any, advance: Any, stop: Any) -> None:
        if path.name == "model-00001.safetensors":
            raise SpaceError("no room")
        stop.wait(30)
        quantize(path, scratch, convert, advance, stop)

    monkeypatch.setattr(engine_files, "_quantize", failing)
    target.mkdir()
    names = tuple(sorted(path.name for path in source.glob("*.safetensors")))
    with pytest.raises(SpaceError):
        llmcompressor.run(
            Task("llmcompressor", find_recipe("fp8-dynamic").settings, source, target, names, "cpu"), lambda _: None
        )
    assert list(target.iterdir()) == []


@pytest.fixture
def change() -> Callable[[Path], None]:
    """Cut the one weight file of a model into one for each layer."""

    def cut(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        for layer in range(6):
            part = {name: tensor for name, tensor in tensors.items() if f"layers.{layer}." in name}
            save_file(part, folder / f"model-{layer:05}.safetensors")

    return cut
