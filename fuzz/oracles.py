"""The process that asks the reference libraries: `python -m fuzz.oracles FORMAT`, a folder for each line.

An answer holds `refused`, the library's words, empty if it takes the files, and its tensors as far as it lists them. A
library that crashes, hangs or takes all memory has no opinion.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from fuzz import pickle_oracle
from fuzz.child import serve

SECONDS = 0.25
"""What a library may take: the gguf package counts to any number that a file names."""

Tensors = list[list[Any]]


class _LateError(BaseException):
    """The time is over."""


def safetensors(folder: Path) -> Tensors:
    """Every file through the safetensors library, which reads the headers."""
    from safetensors import safe_open

    found: Tensors = []
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, framework="numpy") as opened:
            slices = [(name, opened.get_slice(name)) for name in opened.keys()]  # noqa: SIM118 - it is no dict
            name_of = path.relative_to(folder).as_posix()
            found += [[name_of, name, str(part.get_dtype()), list(part.get_shape())] for name, part in slices]
    return found


def gguf(folder: Path) -> Tensors:
    """The file through gguf-py's reader, which makes an array of each tensor."""
    from gguf import GGUFReader

    path = next(folder.glob("*.gguf"))
    return [
        [path.name, tensor.name, tensor.tensor_type.name, [int(size) for size in reversed(tensor.shape)]]
        for tensor in GGUFReader(path).tensors
    ]


def onnx(folder: Path) -> None:
    """The model through onnx.load, with its external data, and through the checker."""
    import onnx as package

    path = str(next(folder.glob("*.onnx")))
    package.checker.check_model(path)
    package.checker.check_model(package.load(path))


def onnx_full(folder: Path) -> None:
    """The same and shape inference, which is no part of a run: how many models only that refuses is of interest."""
    import onnx as package

    onnx(folder)
    package.checker.check_model(str(next(folder.glob("*.onnx"))), full_check=True)


ORACLES: dict[str, Callable[[Path], Tensors | None]] = {
    "safetensors": safetensors,
    "gguf": gguf,
    "onnx": onnx,
    "onnx-full": onnx_full,
    "pickle": pickle_oracle.refuse,
    "documents": safetensors,
}
"""Format to what raises if a library refuses the model in a folder."""


def main() -> None:
    """Answer until the standard input ends."""
    oracle = ORACLES[sys.argv[1]]
    for library in ("gguf", "onnx", "safetensors"):
        import_module(library)  # an import that the clock stops leaves half a library
    signal.signal(signal.SIGALRM, _late)
    serve(lambda line: _ask(oracle, Path(line)))


def _late(*_: object) -> None:
    raise _LateError


def _ask(oracle: Callable[[Path], Tensors | None], folder: Path) -> dict[str, Any]:
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        tensors = oracle(folder)
        return {"refused": "", "tensors": tensors if tensors is None else sorted(tensors)}
    except (_LateError, MemoryError) as error:
        return {"lost": type(error).__name__}
    except BaseException as error:  # noqa: BLE001 - libraries raise whatever they meet; a Rust panic is no Exception
        return {"refused": f"{type(error).__name__}: {error}"[:300]}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
