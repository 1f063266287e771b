"""Calibration samples as an ONNX model's inputs: text by the model's tokenizer, or the inputs themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from recipes.engines.onnx_graph import Graph
from registry.errors import UsageError

TOKENIZER = "tokenizer.json"
LENGTHS = (("tokenizer_config.json", "model_max_length"), ("config.json", "max_position_embeddings"))
"""Where a model says how many tokens it takes; models of fixed positions fail with more."""

TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids", "position_ids"})
"""What can be made of a text."""


@dataclass(frozen=True)
class Input:
    """An input of a model: its numpy type and its sizes, -1 for those that are free."""

    name: str
    dtype: Any
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join('?' if size < 0 else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class Samples:
    """JSON lines in a file: rows with `text`, `messages` or `inputs`, for a model in the folder `model`.

    A text is cut to `max_length` tokens, unless that is 0, and to as many as the model says that it takes.
    """

    path: Path
    model: Path
    max_length: int

    def __len__(self) -> int:
        with self.path.open("rb") as file:
            return sum(1 for line in file if line.strip())

    def feeds(self, name: str, graph: Graph) -> Iterator[dict[str, Any]]:
        """Each row as what the model of that name is run with, one at a time.

        `UsageError` for a row that does not fit the model's inputs or has no tokens, if there are no rows, or texts
        and no tokenizer.
        """
        inputs = {value.name: _input(value) for value in graph.inputs}
        if not len(self):
            raise UsageError("there are no samples", subject=self.path.name)
        with self.path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield self._feed(f"{self.path.name}, row {number}", json.loads(line), name, inputs)

    def _feed(self, place: str, row: Mapping[str, Any], name: str, inputs: Mapping[str, Input]) -> dict[str, Any]:
        if "inputs" in row:
            return _given(place, row["inputs"], inputs)
        if "input_ids" not in inputs or not TEXT_INPUTS.issuperset(inputs):
            raise _needs_inputs("a text cannot be made the inputs of this model", name, inputs)
        return self._tokenized(place, _text(place, row), name, inputs)

    def _tokenized(self, place: str, text: str, name: str, inputs: Mapping[str, Input]) -> dict[str, Any]:
        import numpy as np

        encoded = self._tokenizer(name).encode(text)
        ids = [*encoded.ids]
        if not encoded.special_tokens_mask.count(0):
            raise UsageError(
                "a calibration sample has no tokens",
                subject=place,
                expected="1 token or more, special ones not counted",
                found=f"{len(ids)} special tokens, of {len(text)} characters",
            )
        values: dict[str, Sequence[int]] = {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "token_type_ids": encoded.type_ids,
            "position_ids": range(len(ids)),
        }
        return {key: np.array([_sized(values[key], each)], dtype=each.dtype) for key, each in inputs.items()}

    def _tokenizer(self, name: str) -> Any:
        return self._tokenizers[str(PurePosixPath(name).parent)]

    @cached_property
    def _tokenizers(self) -> Any:
        return _Tokenizers(self.model, self.max_length)


class _Tokenizers(dict[str, Any]):
    """The tokenizer for models in a folder: the one there, or at the top."""

    def __init__(self, root: Path, max_length: int) -> None:
        super().__init__()
        self._root, self._max_length = root, max_length

    def __missing__(self, folder: str) -> Any:
        from tokenizers import Tokenizer

        path = self._find(folder, TOKENIZER)
        if path is None:
            raise UsageError(
                "calibration with text needs the model's tokenizer",
                subject=TOKENIZER,
                expected="a file of this name beside the model",
                hint='add it, or give rows that have "inputs"',
            )
        tokenizer = self[folder] = Tokenizer.from_file(str(path))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if length := self._length(folder):
            tokenizer.enable_truncation(length)
        return tokenizer

    def _find(self, folder: str, name: str) -> Path | None:
        return next((path for path in (self._root / folder / name, self._root / name) if path.exists()), None)

    def _length(self, folder: str) -> int:
        """Tokens at most: no more than asked for, or than the model has positions; 0 if nothing says."""
        lengths = [self._max_length]
        for name, key in LENGTHS:
            if path := self._find(folder, name):
                said = json.loads(path.read_text(encoding="utf-8")).get(key)
                lengths.append(int(said) if isinstance(said, int | float) else 0)
        return min((length for length in lengths if length > 0), default=0)


def _sized(values: Sequence[int], each: Input) -> list[int]:
    """The values cut, or filled up with zeros, to the length that an input demands."""
    length = each.shape[1] if len(each.shape) > 1 and each.shape[1] > 0 else len(values)
    return [*values[:length], *[0] * (length - len(values))]


def _text(place: str, row: Mapping[str, Any]) -> str:
    if isinstance(text := row.get("text"), str):
        return text
    try:
        return "\n".join(turn["content"] for turn in row["messages"])
    except (KeyError, TypeError) as error:
        what = "this row has neither text, messages nor inputs"
        raise UsageError(
            what, subject=place, expected='"text", "messages" or "inputs"', found=", ".join(row)
        ) from error


def _given(place: str, given: Any, inputs: Mapping[str, Input]) -> dict[str, Any]:
    """The inputs that a row has, as the model's types."""
    import numpy as np

    if not isinstance(given, dict) or set(given) != set(inputs):
        raise _needs_inputs("a row must have every input of the model, and no other", place, inputs, given)
    feed: dict[str, Any] = {}
    for name, each in inputs.items():
        try:
            array = np.array(given[name], dtype=each.dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise _unfit(place, each, str(error)) from error
        sizes = tuple(size if want < 0 else want for size, want in zip(array.shape, each.shape, strict=False))
        if len(array.shape) != len(each.shape) or sizes != array.shape:
            raise _unfit(place, each, f"numbers in the shape {list(array.shape)}")
        feed[name] = array
    return feed


def _unfit(place: str, each: Input, found: str) -> UsageError:
    return UsageError("these are not numbers of the input's shape", subject=place, expected=each, found=found)


def _needs_inputs(what: str, subject: str, inputs: Mapping[str, Input], given: Any = None) -> UsageError:
    found = ", ".join(map(str, given)) if isinstance(given, dict) else ", ".join(map(str, inputs.values()))
    names = ", ".join(f'"{name}": [...]' for name in inputs)
    hint = f'give calibration rows such as {{"inputs": {{{names}}}}}, with nested lists of numbers'
    expected = ", ".join(map(str, inputs.values())) if isinstance(given, dict) else ", ".join(sorted(TEXT_INPUTS))
    return UsageError(what, subject=subject, expected=expected, found=found, hint=hint)


def _input(value: Any) -> Input:
    from onnx import helper

    kind = value.type.tensor_type
    shape = tuple(
        size.dim_value if size.HasField("dim_value") and size.dim_value > 0 else -1 for size in kind.shape.dim
    )
    return Input(value.name, helper.tensor_dtype_to_np_dtype(kind.elem_type), shape)
