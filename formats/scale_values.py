"""The values of scales, which are few and looked at without `--deep`: a wrong one spoils what a thousand weights say.

Only scales are read. Those of weights are compared with each other: like modules have like scales.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median_low
from typing import Protocol

from formats.card import Card
from formats.examine import Report
from formats.findings import Finding, Rule
from formats.quantization import FLOATS
from formats.rules import values as rules
from formats.schemes import METHOD
from formats.snapshot import ModelFile, Snapshot
from formats.tensors import TensorInfo, WeightFile
from formats.values import TensorValues, is_scale, judge_values, measure
from registry.blob import Blob, BytesBlob, beneath, file_of
from registry.join import JoinedBlob

_FEW = 4
"""Like modules of which there must be as many to say what is usual."""

_WARNED, _REFUSED, _ALONE = 100.0, 300.0, 1000.0
"""How many times the usual scale is told, how many refuse a model, and how many are told among unlike modules."""

_LARGEST_WEIGHT, _F16_MAX = 1e4, 65504.0
_LEAST = 1e-6
"""The usual scale must be larger: below it are the scales of weights that are all zero."""

_LARGEST_CODES = {"F8_E4M3": 448.0, "I8": 127.0, "I32": 7.0}
"""The largest number that a type of codes holds; of packed codes, that of the smallest that are usual, four bits."""

_NUMBER = re.compile(r"\.\d+(?=\.)")
_OF_WEIGHTS, _OF_INPUTS = (".weight_scale", ".weight_scale_inv"), ".input_scale"


class Read(Protocol):
    """A report or a checkpoint: a model whose headers have been read."""

    @property
    def snapshot(self) -> Snapshot:
        """All files."""

    @property
    def read(self) -> Mapping[ModelFile, WeightFile]:
        """Those with weights."""

    @property
    def card(self) -> Card | None:
        """What the model says of itself."""


def check_scale_values(model: Read) -> Iterator[Finding]:
    """What is wrong with the scales of a model, which are read; nothing if a file that has some is far away."""
    scales = {file: weights for file, all_ in model.read.items() if (weights := _only_scales(all_)).tensors}
    if scales and all(is_local(file.blob) for file in scales):
        yield from judge_all(measure(Report(model.snapshot, scales, None, ())), model)


def is_local(blob: Blob) -> bool:
    """Whether the bytes of a blob are on this machine."""
    if joined := beneath(blob, JoinedBlob):
        return all(is_local(region.blob) for region in joined.regions)
    return bool(file_of(blob) or beneath(blob, BytesBlob))


def judge_all(values: Iterable[TensorValues], model: Read) -> Iterator[Finding]:
    """What is wrong with values of a model: each tensor by itself, and a scale beside the others that are given."""
    dtypes = {_place(tensor): tensor.dtype for weights in model.read.values() for tensor in weights.tensors}
    scales = []
    for value in values:
        if _is_scale(value.tensor):
            scale = _Scale(value, dtypes)
            scales.append(scale)
            yield from _judge(scale, is_never_zero=bool(model.card and model.card.quantization == METHOD))
        else:
            yield from judge_values(value)
    yield from _compare([scale for scale in scales if scale.usual > 0])


def _only_scales(weights: WeightFile) -> WeightFile:
    return replace(weights, tensors=tuple(filter(_is_scale, weights.tensors)))


def _is_scale(tensor: TensorInfo) -> bool:
    return is_scale(tensor) and tensor.file.lower().endswith(".safetensors")


def _place(tensor: TensorInfo) -> str:
    """The name of a tensor behind the folder of its file: a folder is a model of its own."""
    return tensor.file[: tensor.file.rfind("/") + 1] + tensor.name


class _Scale:
    """The values of one scale, and of the codes that it is for: `codes` is the largest, 0 if there are none.

    `usual` is the mean; 0 if the values are no numbers that can be compared, or have a scale themselves.
    """

    def __init__(self, values: TensorValues, dtypes: Mapping[str, str]) -> None:
        self.values, self.tensor, self.known = values, values.tensor, values.moments
        self.place = _place(values.tensor)
        end = next((end for end in _OF_WEIGHTS if self.place.endswith(end)), "")
        stem = self.place.removesuffix(end)
        dtype = dtypes.get(f"{stem}.weight") or dtypes.get(f"{stem}.weight_packed") or ""
        self.is_of_weights = bool(end) and self.tensor.dtype in FLOATS and f"{stem}.weight_global_scale" not in dtypes
        self.codes = _LARGEST_CODES.get(dtype, 0.0) if self.is_of_weights else 0.0
        is_known = self.codes or self.place.endswith(_OF_INPUTS)
        self.usual = float(self.known.mean) if is_known and self.known.finite else 0.0

    @property
    def kind(self) -> str:
        """The name without numbers."""
        return _NUMBER.sub(".*", self.place)


def _judge(scale: _Scale, *, is_never_zero: bool) -> Iterator[Finding]:
    """What is wrong with a scale by itself."""
    tensor, known = scale.tensor, scale.known
    is_lost = is_never_zero and scale.is_of_weights and known.zeros > 0
    if is_lost:
        found = f"{known.zeros} of {known.seen}"
        yield rules.SCALE_ZERO.finding(tensor.file, tensor=tensor.name, expected="no zeros", found=found)
    own = [finding for finding in judge_values(scale.values) if not (is_lost and finding.rule is rules.SCALE_SIZE)]
    yield from own
    if scale.codes and known.finite and known.high * scale.codes > _F16_MAX and not own:
        most = f"at most {_F16_MAX / scale.codes:g}"
        yield rules.SCALE_SIZE.finding(tensor.file, tensor=tensor.name, expected=most, found=f"up to {known.high:g}")


def _compare(scales: Sequence[_Scale]) -> Iterator[Finding]:
    """Scales that are far from their like, or from all where there are too few of these."""
    kinds: dict[str, list[_Scale]] = {}
    others: dict[float, list[_Scale]] = {}
    for scale in scales:
        kinds.setdefault(scale.kind, []).append(scale)
        others.setdefault(scale.codes, []).append(scale)
    usual = {codes: median_low(scale.usual for scale in alike) for codes, alike in others.items() if len(alike) >= _FEW}
    for alike in kinds.values():
        if len(alike) >= _FEW:
            yield from _compare_alike(alike)
            continue
        for scale in alike:
            base = usual.get(scale.codes, 0.0) if scale.codes else 0.0
            if base > _LEAST and scale.known.high >= _ALONE * base:
                yield _far(rules.SCALE_APART, scale, base)


def _compare_alike(alike: Sequence[_Scale]) -> Iterator[Finding]:
    """Scales of one kind of module; the largest of a scale beside what is usual, and beside what is usually largest."""
    base, largest = (median_low(sizes) for sizes in zip(*((one.usual, one.known.high) for one in alike), strict=True))
    if base <= _LEAST:
        return
    for scale in alike:
        times = scale.known.high / base
        is_huge = scale.known.high * scale.codes > _LARGEST_WEIGHT
        if scale.codes and (times >= _REFUSED or (times >= _WARNED and is_huge)):
            yield _far(rules.SCALE_OUTLIER, scale, base)
        elif times >= (_WARNED if scale.codes else _REFUSED):
            yield _far(rules.SCALE_APART, scale, base)
        elif scale.codes and scale.known.high * _REFUSED < largest:
            yield _far(rules.SCALE_APART, scale, largest)


def _far(rule: Rule, scale: _Scale, usual: float) -> Finding:
    tensor, found = scale.tensor, f"up to {scale.known.high:g}"
    return rule.finding(tensor.file, tensor=tensor.name, expected=f"about {usual:g}, as elsewhere", found=found)
