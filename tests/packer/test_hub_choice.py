"""What is taken of a repository: the lists are those of repositories as they are on the Hub."""

from __future__ import annotations

import shlex

import pytest

from packer.hub_choice import choose
from registry.errors import ModelError, UsageError
from registry.names import matches

MINILM = {
    "taken": """1_Pooling/config.json README.md config.json config_sentence_transformers.json data_config.json
        model.safetensors modules.json sentence_bert_config.json special_tokens_map.json tokenizer.json
        tokenizer_config.json train_script.py vocab.txt""",
    "left": """.gitattributes onnx/model.onnx onnx/model_O1.onnx onnx/model_qint8_arm64.onnx
        openvino/openvino_model.bin openvino/openvino_model.xml openvino/openvino_model_qint8_quantized.bin
        openvino/openvino_model_qint8_quantized.xml pytorch_model.bin rust_model.ot tf_model.h5""",
}
LLAMA = {
    "taken": """LICENSE README.md USE_POLICY.md config.json generation_config.json model-00001-of-00002.safetensors
        model-00002-of-00002.safetensors model.safetensors.index.json special_tokens_map.json tokenizer.json
        tokenizer_config.json""",
    "left": ".gitattributes original/consolidated.00.pth original/params.json original/tokenizer.model",
}
MISTRAL = {
    "taken": """README.md config.json generation_config.json model-00001-of-00003.safetensors
        model-00002-of-00003.safetensors model-00003-of-00003.safetensors model.safetensors.index.json params.json
        special_tokens_map.json tokenizer.json tokenizer.model tokenizer.model.v3 tokenizer_config.json""",
    "left": """consolidated.safetensors consolidated-00001-of-00002.safetensors consolidated-00002-of-00002.safetensors
        consolidated.safetensors.index.json""",
}
PIXTRAL = {"taken": "README.md consolidated.safetensors params.json tekken.json", "left": ".gitattributes"}
GPT_OSS = {
    "taken": """LICENSE README.md chat_template.jinja config.json model-00000-of-00002.safetensors
        model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json
        tokenizer.json""",
    "left": "metal/model.bin original/config.json original/dtypes.json original/model.safetensors",
}
GPT2 = {
    "taken": "README.md config.json generation_config.json merges.txt model.safetensors tokenizer.json vocab.json",
    "left": """64.tflite 64-fp16.tflite flax_model.msgpack onnx/config.json onnx/decoder_model.onnx
        onnx/decoder_model.onnx_data onnx/merges.txt onnx/tokenizer.json pytorch_model.bin rust_model.ot tf_model.h5
        coreml/text-generation/float32_model.mlpackage/Data/com.apple.CoreML/model.mlmodel
        coreml/text-generation/float32_model.mlpackage/Manifest.json""",
}
MIXED = {
    "taken": "config.json model.safetensors tokenizer.model",
    "left": """model.gguf model.onnx model.onnx_data model.onnx.data decoder.onnx_data_1 openvino_model.bin
        openvino_model.xml openvino_tokenizer.xml pytorch_model-00001-of-00002.bin pytorch_model.bin.index.json
        flax_model.msgpack.index.json tf_model.h5.index.json whisper.mlmodelc/weights/weight.bin
        whisper.mlmodelc/metadata.json bert.ckpt.data-00000-of-00001 bert.ckpt.index saved_model.pb
        variables/variables.index""",
}
DIFFUSERS = {
    "taken": "model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors vae/config.json",
    "left": "unet/diffusion_pytorch_model.bin unet/openvino_model.xml unet/model.onnx vae/flax_model.msgpack",
}


@pytest.mark.parametrize("repository", [MINILM, LLAMA, MISTRAL, PIXTRAL, GPT_OSS, GPT2, MIXED, DIFFUSERS])
def test_safetensors_and_what_goes_with_them(repository: dict[str, str]) -> None:
    taken, left = repository["taken"].split(), repository["left"].split()
    assert choose(sorted(taken + left), (), "x") == sorted(taken)


def test_include_overrides() -> None:
    names = ["consolidated.safetensors", "model.safetensors", "onnx/model.onnx", "openvino/openvino_model.bin"]
    assert choose(names, ("*",), "x") == names
    assert choose(names, ("onnx/*", "consolidated*"), "x") == ["consolidated.safetensors", "onnx/model.onnx"]


def test_other_formats_where_there_are_no_safetensors() -> None:
    assert choose(["a.gguf", "a.onnx", "a.onnx_data", "a.bin", "t.json"], (), "x") == ["a.gguf", "t.json"]
    onnx = ["onnx/a.onnx", "onnx/a.onnx_data", "onnx/a.onnx_data_1", "t.json"]
    assert choose([*onnx, "a.h5", "openvino/openvino_model.xml", ".x/a.gguf"], (), "x") == onnx
    assert choose(["a.gguf", "b.gguf", "t.json"], ("b*",), "x") == ["b.gguf"]
    index = ["a.gguf", "model.safetensors.index.fp16.json", "pytorch_model.bin.index.fp16.json", "t.json"]
    assert choose(index, (), "x") == ["a.gguf", "t.json"]
    split = ["q-00001-of-00002.gguf", "q-00002-of-00002.gguf"]
    assert choose(split, (), "x") == split
    many = ["q-000001-of-000163.gguf", "q-000002-of-000163.gguf"]
    assert choose(many, (), "x") == many
    with pytest.raises(UsageError, match="several GGUF variants"):
        choose(["a-q4.gguf", "a-q8.gguf"], (), "x")


def test_a_model_of_more_shards_than_five_digits_number() -> None:
    shards = [f"model-{at:06}-of-000163.safetensors" for at in (1, 2)]
    assert choose([*shards, "consolidated.safetensors"], (), "x") == shards


def test_no_weights() -> None:
    for names in (["README.md"], ["openvino_model.bin", "openvino_model.xml"]):
        with pytest.raises(ModelError, match="no weights") as caught:
            choose(names, (), "x")
        assert "--pickle" not in caught.value.hint


def hinted(names: list[str]) -> list[str]:
    """The globs that the hint says to use."""
    with pytest.raises(ModelError, match="only pickles") as caught:
        choose(names, (), "x")
    words = shlex.split(caught.value.hint.partition("--pickle convert ")[2])
    assert set(words[::2]) == {"--include"}
    return words[1::2]


@pytest.mark.parametrize(
    ("taken", "left", "globs"),
    [
        (
            """LICENSE config.json merges.txt pytorch_model-00001-of-00002.bin pytorch_model-00002-of-00002.bin
            pytorch_model.bin.index.json tokenizer.model vocab.txt""",
            "flax_model.msgpack tf_model.h5 training_args.bin",
            ["pytorch_model*.bin", "*.json", "*.model", "*.txt", "LICENSE"],
        ),
        ("consolidated.00.pth params.json tokenizer.model", "", ["*.pth", "*.json", "*.model"]),
        ("adapter_config.json adapter_model.bin", "optimizer.pt", ["adapter_model*.bin", "*.json"]),
    ],
)
def test_the_hint_for_pickles_leaves_nothing_out(taken: str, left: str, globs: list[str]) -> None:
    names = sorted(taken.split() + left.split())
    assert sorted(hinted(names)) == sorted(globs)
    assert choose(names, hinted(names), "x") == sorted(taken.split())


def test_the_hint_is_short_and_safe_to_paste() -> None:
    assert hinted(["a.bin", *(f"b.{letter}" for letter in "cdefghijklmn")]) == ["*"]
    nasty = "x.a'; echo [b] $(c)"
    assert matches(nasty, hinted(["a.bin", nasty])[1:])
