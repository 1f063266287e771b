"""Giants among the documents of a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial

from formats.document import MAX_CONFIG
from formats.index import MAX_INDEX
from fuzz.giants.headers import MOST_TENSORS, filled, header, tensors, weights
from fuzz.mutant import Content

_INDEX = "model.safetensors.index.json"

Files = dict[str, Content]


def _json(document: object) -> Content:
    return Content(json.dumps(document).encode())


def beside(name: str, text: bytes) -> Files:
    """A file beside a model that is right."""
    return {
        "model.safetensors": weights(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
        name: Content(text),
    }


def _lora(modules: int, **config: object) -> Files:
    """An adapter of many modules."""
    names = [f"m.{at:x}.q.lora_{side}.weight" for at in range(modules) for side in "AB"]
    entries = ",".join(
        f'"{name}":{{"dtype":"U8","shape":[1,1],"data_offsets":[{at},{at + 1}]}}' for at, name in enumerate(names)
    )
    document = {"base_model_name_or_path": "b", "r": 1, "target_modules": ["q"], **config}
    return {"adapter_model.safetensors": header(entries, len(names)), "adapter_config.json": _json(document)}


_PIECES = {
    "lists": (b'{"a":[[]', b",[]", b"]}"),
    "objects": (b'{"a":[{}', b",{}", b"]}"),
    "numbers": (b'{"a":[0', b",0", b"]}"),
    "deep": (b'{"a":', b"[", b""),
    "text": (b'{"a":"\xf0\x9f\x98\x80', b"a", b'"}'),
    "digits": (b'{"a":0.', b"1", b"}"),
    "escapes": (b'{"a":"', b"\\ud83d\\ude00", b'"}'),
}
"""What a document begins with, what comes over and over, and what it ends with."""


def documents() -> Iterator[tuple[str, Callable[[], Files]]]:
    """Models, by name."""
    for name, size in (("config.json", MAX_CONFIG), ("adapter_config.json", MAX_CONFIG), (_INDEX, MAX_INDEX)):
        for kind in _PIECES:
            yield f"{name}-of-{kind}", partial(_document, name, kind, size - 10)
    for name in ("tokenizer_config.json", "generation_config.json"):
        for kind in _PIECES:
            yield f"{name}-of-{kind}", partial(_document, name, kind, MAX_CONFIG - 10)
    yield "config-of-many-names", partial(_names, "tokenizer_config.json", 119_000, "a" * 20)
    yield "index-of-distinct-names", partial(_names, _INDEX, 420_000)
    yield "index-of-distinct-wide-names", partial(_names, _INDEX, 160_000, "a" * 40 + chr(0x1F600))
    yield "index-of-distinct-long-names", partial(_names, _INDEX, 40_000, "a" * 700)
    for kind in ("missing-shards", "missing-tensors", "long-names", "nothing"):
        yield f"index-of-{kind}", partial(_index, kind)
    yield "adapter-of-many-targets", lambda: _lora(20_000, target_modules=[f"t{at:x}" for at in range(90_000)])
    yield "adapter-of-many-ranks", lambda: _lora(20_000, rank_pattern={f"t{at:x}": 2 for at in range(90_000)})
    yield "adapter-of-another-rank", lambda: _lora(32_000, r=7)
    yield "adapter-of-dots", lambda: _lora(10, target_modules=["." * 1_000_000, "a." * 500_000])
    yield "config-of-missing-scales", _scales
    for end in ("\\n", "!"):
        for part in (".weight", ".layers.1", ".lora_A", ".1"):
            yield f"config-over-names-of-{part[1:]}-and-{end.strip(chr(92))}", partial(_repeated, part, end)


def _document(name: str, kind: str, size: int) -> Files:
    return beside(name, filled(*_PIECES[kind], size))


def _index(kind: str) -> Files:
    """An index of a hundred thousand tensors that are not there, or of none of those that are."""
    names = [f"{at:x}" for at in range(100_000)]
    weight_map = {
        "missing-shards": {name: name for name in names},
        "missing-tensors": dict.fromkeys(names, "model.safetensors"),
        "long-names": {name + "a" * 100: "model.safetensors" for name in names},
        "nothing": {"0": "model.safetensors"},
    }[kind]
    return {"model.safetensors": header(tensors(MOST_TENSORS), MOST_TENSORS), _INDEX: _json({"weight_map": weight_map})}


def _scales() -> Files:
    """Quantized weights without a scale among them."""
    quantized = _json({"quantization_config": {"quant_method": "gptq"}})
    members = tensors(MOST_TENSORS).replace('":{', '.qweight":{')
    return {"model.safetensors": header(members, MOST_TENSORS), "config.json": quantized}


def _repeated(part: str, end: str) -> Files:
    """A llama of names that are as long as names may be, each one part over and over."""
    name = "model.layers.1" + part * (4000 // len(part)) + end
    members = tensors(3900, "@").replace("@", name)
    config = _json({"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 4, "vocab_size": 8})
    return {"model.safetensors": header(members, 3900), "config.json": config}


def _names(name: str, count: int, end: str = "") -> Files:
    """A document of one map of many names, beside a model that is right."""
    pairs = ",".join(f'"{at:x}{end}":"model.safetensors"' for at in range(count))
    return beside(name, f'{{"weight_map":{{{pairs}}}}}'.encode())
