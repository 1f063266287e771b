"""What a model says of itself: its config.json, its model card, its GGUF metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from formats.schemes import read_schemes
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo, count_by_dtype
from formats.text import parse_yaml, short_text

MAX_TEXT = 1 << 20
"""Bytes read of a card."""

MAX_FRONT_MATTER = 256 << 10
"""Characters of YAML parsed at the top of a card."""

_PRECISION = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I8": "int8",
    "U8": "uint8",
    "F8_E4M3": "float8_e4m3",
    "F8_E5M2": "float8_e5m2",
    "F4": "float4",
    "DOUBLE": "float64",
    "FLOAT": "float32",
    "FLOAT16": "float16",
    "BFLOAT16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
}


@dataclass(frozen=True)
class Card:
    """A model's account of itself; a member that it does not tell is empty. `dtypes` counts parameters."""

    format: str
    architecture: str
    family: str
    name: str
    licence: str
    quantization: str
    adapts: str
    parameters: int
    dtypes: Mapping[str, int]

    @property
    def precision(self) -> str:
        """The dtype of most parameters, in the words of the ModelPack specification (`bfloat16`)."""
        dtype = next(iter(self.dtypes), "")
        return _PRECISION.get(dtype, dtype.lower())

    @property
    def param_size(self) -> str:
        """The number of parameters, rounded, in the words of the ModelPack specification (`135m`, `8.03b`)."""
        for unit, letter in ((10**12, "t"), (10**9, "b"), (10**6, "m"), (10**3, "k")):
            if self.parameters >= unit:
                return f"{float(f'{self.parameters / unit:.3g}'):g}{letter}"
        return str(self.parameters)

    def to_json(self) -> dict[str, Any]:
        """The members that are known, and the count of parameters always."""
        known = {key: value for key, value in vars(self).items() if value}
        return {**known, "parameters": self.parameters, "dtypes": dict(self.dtypes)}


def read_card(
    snapshot: Snapshot,
    format_name: str,
    tensors: Iterable[TensorInfo],
    metadata: Mapping[str, object],
    config: Mapping[str, Any],
    adapts: str = "",
) -> Card:
    """The card of a model whose weight files hold `tensors` and `metadata`, with its config.json or an empty map.
    `adapts` is the base model of an adapter.

    A tensor that stands in several variants of one model is counted once.
    """
    dtypes = count_by_dtype(_counted({tensor.name: tensor for tensor in tensors}, config))
    front = _front_matter(snapshot)
    architecture = short_text(metadata.get("general.architecture"))
    names = (snapshot.origin.name, metadata.get("general.name"), front.get("model_name"), config.get("_name_or_path"))
    return Card(
        format=format_name,
        architecture=short_text(config.get("architectures")) or architecture,
        family=short_text(config.get("model_type")) or architecture,
        name=next((name.rpartition("/")[2] for name in map(short_text, names) if name), ""),
        licence=_licence(front) or short_text(metadata.get("general.license")),
        quantization=_quantization(format_name, config, dtypes),
        adapts=adapts,
        parameters=sum(dtypes.values()),
        dtypes=dtypes,
    )


_BESIDE = re.compile(
    r".*\.(?:(?:weight|input|output)_(?:scale|zero_point|g_idx|global_scale)|weight_scale_inv|weight_shape)"
)
"""What lies beside the weights of a quantized model, and is none of its parameters."""

_PACKED = ".weight_packed"


def _counted(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> Iterator[TensorInfo]:
    """The tensors that are parameters, of the shapes that they stand for: one number holds several packed weights."""
    schemes = read_schemes(config.get("quantization_config"))
    for name, tensor in tensors.items():
        if schemes and _BESIDE.fullmatch(name):
            continue
        scheme = schemes.of(name.removesuffix(_PACKED)) if schemes and name.endswith(_PACKED) else None
        if scheme and scheme.bits and tensor.dtype == "I32" and tensor.shape:
            yield replace(tensor, shape=(*tensor.shape[:-1], tensor.shape[-1] * 32 // scheme.bits))
        else:
            yield tensor


def _quantization(format_name: str, config: Mapping[str, Any], dtypes: Mapping[str, int]) -> str:
    declared = config.get("quantization_config")
    if isinstance(declared, dict):
        return short_text(declared.get("quant_method"))
    dtype = next(iter(dtypes), "")
    return dtype.lower() if format_name == "gguf" and dtype not in _PRECISION else ""


def _licence(front: Mapping[str, Any]) -> str:
    licence = short_text(front.get("license"))
    return (short_text(front.get("license_name")) or licence) if licence == "other" else licence


def _front_matter(snapshot: Snapshot) -> Mapping[str, Any]:
    """The YAML between the `---` lines at the top of README.md (Hugging Face's model card)."""
    text = _read(snapshot.get("README.md")).decode(errors="replace").replace("\r\n", "\n")
    head, _, _ = text.removeprefix("---\n").partition("\n---")
    if not text.startswith("---\n") or len(head) > MAX_FRONT_MATTER:
        return {}
    try:
        document = parse_yaml(head)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _read(file: ModelFile | None) -> bytes:
    if not file:
        return b""
    with file.open() as stream:
        return stream.read(MAX_TEXT)
