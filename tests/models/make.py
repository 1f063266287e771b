"""An example for every rule: a tiny model that breaks it, and nothing else.

`python -m tests.models.make FOLDER` writes them all, each into a folder that is named for its rule. What lies beside
this file was found by fuzzing and is kept as it was found.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import onnx

from formats.safetensors import MAX_TENSORS
from fuzz import gguf
from fuzz.mutant import Content, Mutant
from fuzz.onnx import DATA, model, weight
from tests.models import compressed
from tests.parts.tiny import SHARDED, safetensors_bytes, tensor

Files = Mapping[str, bytes | Content]
GOOD = safetensors_bytes({"a": tensor(0, 16), "bb": tensor(16, 24)}, bytes(24))
ALIGNED = safetensors_bytes('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  ', bytes(8))
INDEX = "model.safetensors.index.json"


def weights(shapes: dict[str, list[int]], dtype: str = "F32", **more: Any) -> bytes:
    """A safetensors file of zeros, its header padded as writers do."""
    header: dict[str, Any] = dict(more)
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + int(numpy.prod(shape)) * (4 if dtype == "F32" else 1)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header)
    return safetensors_bytes(text + " " * (-len(text.encode()) % 8), bytes(end))


def single(header: dict[str, Any] | str, data: bytes = b"") -> Files:
    """One safetensors file with this header."""
    return {"model.safetensors": safetensors_bytes(header, data)}


def beside(name: str, content: bytes | Content) -> Files:
    """A file beside a model that is right."""
    return {"model.safetensors": ALIGNED, name: content}


def document(name: str, **members: Any) -> Files:
    """A document beside a model that is right."""
    return beside(name, json.dumps(members).encode())


# The files of a model together

LLAMA = {"embed_tokens.weight": [8, 4], "lm_head.weight": [8, 4], "layers.0.up.weight": [4, 4]}
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4,
    "vocab_size": 8,
    "num_hidden_layers": 1,
    "tie_word_embeddings": False,
}
LORA = {"base_model_name_or_path": "base", "r": 2, "target_modules": ["q"]}
PAIR = {"layers.0.q.lora_A.weight": [2, 4], "layers.0.q.lora_B.weight": [4, 2]}


def sharded(**changed: bytes | None) -> Files:
    """The model in two shards with some files changed, or gone."""
    shards = {f"model-0000{at}-of-00002.safetensors": weights({name: [4]}) for at, name in ((1, "a"), (2, "b"))}
    index = json.dumps({"metadata": {"total_size": 32}, "weight_map": {"a": min(shards), "b": max(shards)}}).encode()
    names = {"index": INDEX, "first": min(shards), "second": max(shards)}
    files: dict[str, bytes | None] = {**SHARDED, **shards, INDEX: index}
    files |= {names[key]: data for key, data in changed.items()}
    return {name: data for name, data in files.items() if data is not None}


def index(weight_map: dict[str, str], total: int = 32) -> bytes:
    """An index; shards by the number at the end of what they are given as."""
    places = {name: f"model-0000{shard}-of-00002.safetensors" for name, shard in weight_map.items()}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}).encode()


def configured(shapes: dict[str, list[int]], dtype: str = "F32", **changed: Any) -> Files:
    """A llama with some of its config changed."""
    return {"model.safetensors": weights(shapes, dtype), "config.json": json.dumps({**CONFIG, **changed}).encode()}


def adapter(shapes: dict[str, list[int]], **changed: Any) -> Files:
    """A LoRA adapter with some of its config changed."""
    config = json.dumps({**LORA, **changed}).encode()
    return {"adapter_model.safetensors": weights(shapes), "adapter_config.json": config}


def quantized(
    kind: str, name: str, dtype: str | None = None, shape: tuple[int, ...] | None = None, **said: Any
) -> Files:
    """A llama in compressed-tensors in which a tensor of the first layer has another type or shape; `said` of how."""
    tensors, name = compressed.tensors(kind, 2), f"model.layers.0.{name}"
    old, values = tensors[name]
    tensors[name] = (dtype or old, numpy.ones(values.shape if shape is None else shape))
    return compressed.files(compressed.config(kind, 2, **said), tensors)


def left(name: str, **said: Any) -> Files:
    """A llama in compressed-tensors in which a module of the first layer is not quantized."""
    tensors, name = compressed.tensors("dynamic", 2), f"model.layers.0.{name}.weight"
    tensors[name] = ("BF16", numpy.ones(tensors[name][1].shape))
    del tensors[f"{name}_scale"]
    return compressed.files(compressed.config("dynamic", 2, **said), tensors)


def embedded() -> Files:
    """A llama in compressed-tensors whose embedding is quantized too."""
    tensors, name = compressed.tensors("dynamic", 1), "model.embed_tokens.weight"
    tensors |= {name: ("F8_E4M3", numpy.ones((8, 8))), f"{name}_scale": ("BF16", numpy.ones((8, 1)))}
    return compressed.files(compressed.config("dynamic", 1), tensors)


_UPS = ("layers.1.up.weight", "layers.2.up.weight")
TIED: dict[str, list[int]] = {name: shape for name, shape in LLAMA.items() if name != "lm_head.weight"}
QUANTIZED: dict[str, Any] = {"quantization_config": {"quant_method": "fp8"}, "tie_word_embeddings": True}

MODEL: dict[str, Callable[[], Files]] = {
    "model-no-weights": lambda: {"config.json": b"{}"},
    "model-shard-missing": lambda: sharded(index=None, second=None),
    "model-index-missing": lambda: sharded(index=None),
    "model-index-json": lambda: sharded(index=b"[]"),
    "model-index-shard-missing": lambda: beside(INDEX, b'{"weight_map":{"a":"model.safetensors","b":"gone"}}'),
    "model-index-outside": lambda: beside(INDEX, b'{"weight_map":{"a":"model.safetensors","b":"../x.safetensors"}}'),
    "model-index-foreign-file": lambda: {
        **beside(INDEX, b'{"weight_map":{"a":"model.safetensors","b":"README.md"}}'),
        "README.md": b"# A model",
    },
    "model-index-unnamed-file": lambda: {**sharded(), "other.safetensors": weights({"c": [4]})},
    "model-index-wrong-shard": lambda: sharded(index=index({"a": "2", "b": "2"}, 16)),
    "model-index-extra-tensor": lambda: sharded(first=weights({"a": [3], "more": [1]})),
    "model-index-total-size": lambda: sharded(index=index({"a": "1", "b": "2"}, 31)),
    "model-shard-oversize": lambda: {"model.safetensors": weights({"a": [4], "large": [1024]})},
    "model-tensor-twice": lambda: sharded(second=weights({"b": [3], "a": [1]}), index=index({"a": "1", "b": "2"})),
    "model-config-json": lambda: beside("config.json", b"{"),
    "model-config-names": lambda: configured({"vision.x.weight": [4], "model.norm.weight": [4]}),
    "model-config-layers": lambda: configured(LLAMA, num_hidden_layers=2),
    "model-config-layer-parts": lambda: configured(
        {**LLAMA, **{f"layers.{at}.down.weight": [4, 4] for at in (1, 2)}, **{name: [4, 4] for name in _UPS}},
        num_hidden_layers=3,
    ),
    "model-config-embedding-missing": lambda: configured(
        {name: shape for name, shape in LLAMA.items() if "embed" not in name}
    ),
    "model-config-embedding": lambda: configured(LLAMA, vocab_size=9),
    "model-config-value": lambda: configured(LLAMA, intermediate_size="4"),
    "model-config-shape": lambda: configured({**LLAMA, "norm.weight": [5]}),
    "model-config-layer-shapes": lambda: configured(
        {f"layers.{at}.mlp.up.weight": [4, 4 if at else 8] for at in range(8)}, model_type="unknown"
    ),
    "model-config-head-missing": lambda: configured(TIED),
    "model-config-quantization": lambda: configured(TIED, **QUANTIZED),
    "model-config-scale-missing": lambda: configured(TIED, "F8_E4M3", **QUANTIZED),
    "model-config-weight-type": lambda: quantized("dynamic", "mlp.down_proj.weight", "F8_E5M2"),
    "model-config-scale-shape": lambda: quantized("block", "mlp.down_proj.weight_scale", shape=(4, 2)),
    "model-config-scale-type": lambda: quantized("int8", "mlp.down_proj.weight_scale", "I8"),
    "model-config-ignored": lambda: quantized("dynamic", "mlp.down_proj.weight", ignore=["re:.*0.mlp.down"]),
    "model-config-not-quantized": lambda: left("mlp.down_proj"),
    "model-config-fused": lambda: left("mlp.up_proj", ignore=["model.layers.0.mlp.up_proj"]),
    "model-config-embedding-quantized": embedded,
    "model-config-dtype": lambda: configured(LLAMA, torch_dtype="bfloat16"),
    "model-config-undeclared": lambda: configured(TIED, "F8_E4M3", tie_word_embeddings=True),
    "model-adapter-config": lambda: adapter(PAIR, r=0),
    "model-adapter-alone": lambda: {"adapter_model.safetensors": weights(PAIR)},
    "model-adapter-rank": lambda: adapter(PAIR, r=2, rank_pattern={"q": 3}),
    "model-adapter-pair": lambda: adapter({name: shape for name, shape in PAIR.items() if "_A" in name}),
    "model-adapter-targets": lambda: adapter(PAIR, target_modules=["q", "v"]),
    "model-adapter-base": lambda: adapter(PAIR, base_model_name_or_path=None),
}


# safetensors


def many_tensors() -> Files:
    """One tensor more than are read."""
    entries = ",".join(f'"{at}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for at in range(MAX_TENSORS + 1))
    return single(f"{{{entries}}}")


SAFETENSORS: dict[str, Callable[[], Files]] = {
    "safetensors-header-length": lambda: {"model.safetensors": struct.pack("<Q", 1 << 60) + b"{}"},
    "safetensors-json": lambda: single('{"a":NaN}'),
    "safetensors-duplicate-key": lambda: single('{"a":%s,"a":%s}' % ((json.dumps(tensor(0, 0)),) * 2)),
    "safetensors-metadata": lambda: single({"__metadata__": {"step": 1}}),
    "safetensors-name-too-long": lambda: single({"n" * 4097: tensor(0, 0)}),
    "safetensors-too-many-tensors": many_tensors,
    "safetensors-entry": lambda: single({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "safetensors-dtype": lambda: single({"a": tensor(0, 8, "F33")}, bytes(8)),
    "safetensors-rank": lambda: single({"a": tensor(0, 4, shape=[1] * 65)}, bytes(4)),
    "safetensors-size": lambda: single({"a": tensor(0, 8, shape=[3])}, bytes(8)),
    "safetensors-tiling": lambda: single({"a": tensor(0, 8), "b": tensor(12, 16)}, bytes(16)),
    "safetensors-truncated": lambda: {"model.safetensors": GOOD[:-1]},
    "safetensors-trailing-bytes": lambda: {"model.safetensors": GOOD + b"\0"},
    "safetensors-alignment": lambda: single('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
}


# GGUF

LITTLE = gguf.model()


def llama(**changed: Any) -> Files:
    """A small llama as GGUF, some of it changed."""
    return {"model.gguf": replace(LITTLE, **changed).content()}


def paired(*pairs: gguf.Pair, without: str = "") -> Files:
    """A small llama with pairs added, those of the same keys replaced, and one left out."""
    keys = {key for key, _, _ in pairs} | {without.encode()}
    return llama(pairs=(*(pair for pair in LITTLE.pairs if pair[0] not in keys), *pairs))


def changed(name: str = "", shape: tuple[int, ...] | None = None, kind: int | None = None, offset: int = 0) -> Files:
    """A small llama whose last tensor is another one, or lies elsewhere."""
    *others, (old, dimensions, number, place) = LITTLE.tensors
    last = (
        name.encode() or old,
        dimensions if shape is None else shape,
        number if kind is None else kind,
        place + offset,
    )
    return llama(tensors=(*others, last))


def part(number: int, count: int, total: int) -> bytes | Content:
    """A part of a split model."""
    values = (("split.no", "H", number), ("split.count", "H", count), ("split.tensors.count", "i", total))
    return paired(*(gguf.scalar("<", *value) for value in values))["model.gguf"]


TRUNCATED = Content(LITTLE.content().head, LITTLE.zeros - 32)

GGUF: dict[str, Callable[[], Files]] = {
    "gguf-magic": lambda: {"model.gguf": Content(b"GGML" + LITTLE.content().head[4:], LITTLE.zeros)},
    "gguf-version": lambda: llama(version=1),
    "gguf-truncated": lambda: {"model.gguf": TRUNCATED},
    "gguf-counts": lambda: llama(counts=(1 << 60, len(LITTLE.pairs))),
    "gguf-key": lambda: llama(pairs=(*LITTLE.pairs, LITTLE.pairs[0])),
    "gguf-value": lambda: paired((b"any", 13, b"\0")),
    "gguf-too-long": lambda: paired((b"any", 8, struct.pack("<Q", 1 << 40))),
    "gguf-alignment": lambda: paired(gguf.scalar("<", "general.alignment", "I", 33)),
    "gguf-tensor-name": lambda: changed("n" * 64),
    "gguf-rank": lambda: changed(shape=(1, 1, 1, 1, 32)),
    "gguf-type": lambda: changed(kind=4),
    "gguf-misaligned": lambda: changed(shape=(16, 3), kind=2),
    "gguf-tensor-size": lambda: changed(shape=(0, 1 << 62, 4)),
    "gguf-overlap": lambda: changed(offset=-64),
    "gguf-order": lambda: {"model.gguf": replace(LITTLE, tensors=LITTLE.tensors[:1] + LITTLE.tensors[2:]).content()},
    "gguf-missing-key": lambda: paired(without="llama.context_length"),
    "gguf-layers": lambda: paired(gguf.scalar("<", "llama.block_count", "I", 3)),
    "gguf-embedding": lambda: paired(gguf.scalar("<", "llama.embedding_length", "I", 64)),
    "gguf-shape": lambda: paired(gguf.scalar("<", "llama.feed_forward_length", "I", 1)),
    "gguf-trailing-bytes": lambda: {"model.gguf": Content(LITTLE.content().head, LITTLE.zeros + 32)},
    "gguf-tokenizer": lambda: paired(gguf.scalar("<", "tokenizer.ggml.bos_token_id", "I", 72)),
    "gguf-split": lambda: {"model-00001-of-00001.gguf": part(0, 2, len(LITTLE.tensors))},
}


# ONNX


def graph(change: Callable[[Any], object] = lambda _: None, **files: bytes | Content) -> Files:
    """A model that adds a weight, changed, beside other files."""
    made = model([onnx.helper.make_node("Add", ["x", "w"], ["y"])], [weight()])
    change(made)
    return {"model.onnx": made.SerializeToString(), **files}


def outside(location: str, **entries: str) -> Callable[[Any], None]:
    """What moves the weight into another file."""

    def change(made: Any) -> None:
        tensor = made.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, **entries}.items():
            tensor.external_data.add(key=key, value=value)

    return change


def first(made: Any) -> Any:
    return made.graph.initializer[0]


ONNX: dict[str, Callable[[], Files]] = {
    "onnx-protobuf": lambda: {"model.onnx": bytes(graph()["model.onnx"])[:-9]},  # type: ignore[arg-type]
    "onnx-too-large": lambda: {"model.onnx": Content(b"", 1 << 31)},
    "onnx-checker": lambda: graph(lambda made: made.graph.node[0].input.append("nowhere")),
    "onnx-tensor-type": lambda: graph(lambda made: setattr(first(made), "data_type", 99)),
    "onnx-tensor-size": lambda: graph(lambda made: setattr(first(made), "raw_data", bytes(12))),
    "onnx-no-data": lambda: graph(lambda made: first(made).ClearField("raw_data")),
    "onnx-external-path": lambda: graph(outside(f"../{DATA}")),
    "onnx-external-missing": lambda: graph(outside(DATA)),
    "onnx-external-range": lambda: graph(outside(DATA, offset="1", length="16"), **{DATA: bytes(16)}),
    "onnx-opset": lambda: graph(lambda made: setattr(made.opset_import[0], "version", 99)),
    "onnx-foreign-operators": lambda: graph(lambda made: setattr(made.graph.node[0], "domain", "local")),
}


# Pickles


class Runs:
    """An object whose pickle calls a function; nothing here loads one."""

    def __init__(self, function: Callable[..., object], *given: object) -> None:
        self._given = function, given

    def __reduce__(self) -> tuple[object, ...]:
        return self._given


PLAIN = pickle.dumps({"a": numpy.zeros(2)}, protocol=4)


def objects() -> bytes:
    """An array of objects as NumPy writes it."""
    buffer = io.BytesIO()
    numpy.save(buffer, numpy.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive, the same every time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return buffer.getvalue()


SCRIPT = {"a/data.pkl": PLAIN, "a/constants.pkl": PLAIN, "a/code/__torch__.py": b"def forward(): ..."}
"""An archive as TorchScript has it: pickles beside a program."""


PICKLE: dict[str, Callable[[], Files]] = {
    "pickle-by-name": lambda: beside("pytorch_model.bin", bytes(16)),
    "pickle-by-content": lambda: beside("notes.txt", PLAIN),
    "pickle-dangerous": lambda: beside("model.pkl", pickle.dumps(Runs(eval, "1"))),
    "pickle-numpy-objects": lambda: beside("classes.npy", objects()),
    "pickle-appended": lambda: beside("logo.png", b"\x89PNG\r\n\x1a\n" + zipped({"weights": PLAIN})),
    "pickle-torchscript": lambda: beside("model.ts", zipped(SCRIPT)),
    "pickle-partial": lambda: beside("model.dat", PLAIN[:-1] + b"\xff"),
    "pickle-unreadable": lambda: beside("models.zip", zipped({"inner.zip": zipped({"a": b""})})),
}


# Code


def templated(text: str) -> Files:
    """A chat template beside a model."""
    return document("tokenizer_config.json", chat_template=text)


CODE: dict[str, Callable[[], Files]] = {
    "code-auto-map": lambda: document("config.json", auto_map={"AutoModel": "modeling.Model"}),
    "code-custom-pipelines": lambda: document("config.json", custom_pipelines={"any": {"impl": "pipeline.Any"}}),
    "code-file": lambda: beside("modeling.py", b"print()"),
    "code-config-unread": lambda: beside("generation_config.json", Content(b"{}", 17 << 20)),
    "code-template-syntax": lambda: templated("{% for %}"),
    "code-template-unsafe": lambda: templated("{{ messages.__class__ }}"),
    "code-template-endless": lambda: templated(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
}

EXAMPLES = {**MODEL, **SAFETENSORS, **GGUF, **ONNX, **PICKLE, **CODE}
"""Rule to what makes the files of its example."""

NO_FILES = frozenset(("model-unreadable", "pickle-converted"))
"""Rules about what is no content of a file: a link to nowhere, a name that no system takes, what a build did."""


def write(rule: str, folder: Path) -> None:
    """Write the example of a rule into a folder, which must be there."""
    files = {name: data if isinstance(data, Content) else Content(data) for name, data in EXAMPLES[rule]().items()}
    Mutant(files, rule).write(folder)


if __name__ == "__main__":
    for rule in EXAMPLES:
        (Path(sys.argv[1]) / rule).mkdir(parents=True)
        write(rule, Path(sys.argv[1]) / rule)
