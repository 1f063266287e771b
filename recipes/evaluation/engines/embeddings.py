"""Vectors of text, by an ONNX model that onnxruntime runs: how far a candidate's point where the baseline's do.

A run on the baseline leaves the vector of each passage and its tokens; one on a candidate, the cosine between both. The
vector is what the model itself calls `sentence_embedding`. Where there is none, its first output that has a vector for
each token, put together as sentence-transformers' `1_Pooling/config.json` says, and by their mean if nothing is said;
and else its first output of one vector.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from formats.text import printable
from recipes.engines.devices import Device, announce, processors
from recipes.engines.onnx_files import Source, load
from recipes.engines.onnx_graph import Graph
from recipes.engines.onnx_samples import TEXT_INPUTS, Samples
from recipes.evaluation.engines.fidelity import OTHER_TOKENS, passage, unmeasured
from recipes.task import PARTIAL, Done, Step, Task, Tell, whole_file
from registry.errors import ModelError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

POOLING = "1_Pooling/config.json"

_OWN = "sentence_embedding"
_LOGITS = "logits"
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_SILENT = 4
"""onnxruntime's severity `fatal`: what matters it raises as well."""

_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""As sentence-transformers wrote `pooling_mode` before version 6."""

_POOLED = {"mean": "mean", "mean_sqrt_len_tokens": "mean", "cls": "cls"}
"""What is known here: of the first two the length alone differs, and that is not compared."""


def refusal(inputs: Sequence[str], outputs: Sequence[str]) -> str:
    """Why a graph makes no vectors of text; empty if it may, as far as its header tells.

    Inputs and outputs are in the words of `formats.onnx`: `input_ids: INT64[batch, sequence]`.
    """
    names = [text.rpartition(": ")[0] for text in inputs]
    if "input_ids" not in names or not TEXT_INPUTS.issuperset(names):
        return f"it takes other things than text ({', '.join(inputs)})"
    ranks = {name: _rank(shape) for name, _, shape in (text.rpartition(": ") for text in outputs)}
    name = chosen(ranks)
    if not name:
        return f"none of its outputs is a vector, or one for each token ({', '.join(outputs)})"
    return "it answers with logits, and not with a vector" if name == _LOGITS else ""


def _rank(shape: str) -> int | None:
    """The dimensions of `FLOAT[batch, 384]`; None for no list, which may mean that nothing is known of them."""
    inner = shape.partition("[")[2].rstrip("]")
    return len(inner.split(", ")) if inner else None


def chosen(ranks: Mapping[str, int | None]) -> str:
    """The output that holds the vector, or a vector for each token, by the dimensions of each; empty if there is none.

    Of one whose dimensions are not known it is taken that they are the right ones.
    """
    if ranks.get(_OWN) in (2, None) and _OWN in ranks:
        return _OWN
    return next((name for rank in (3, 2, None) for name in ranks if ranks[name] == rank), "")


def run(task: Task, tell: Tell) -> Done:
    """The passages from `first` to `last` (exclusive) of the task's samples, one file each; what is whole stays.

    For a candidate `settings` name the folder of vectors that it is measured `against`.
    """
    assert task.samples
    samples = Samples(task.samples, task.source, task.max_length)
    units = len(samples)
    if left := unmeasured(task, units):
        _run(samples, left, task, tell, min(task.settings["last"], units))
    return Done(facts={"units": units})


def _run(samples: Samples, left: Sequence[int], task: Task, tell: Tell, last: int) -> None:
    name = next(name for name in task.files if name.lower().endswith(".onnx"))
    feeds = _feeds(samples, name, left)
    tell(_announced(feeds, task))
    model = Model(_session(name, task), task.source)
    for at, feed in feeds.items():
        _keep(model.vector(feed), feed["input_ids"], at, task)
        tell(Step(at + 1, last, "passages", ""))


def _feeds(samples: Samples, name: str, left: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What the model is given for each passage that is left."""
    graph = Graph(load(samples.model / name, data=False))
    wanted = set(left)
    return {at: feed for at, feed in enumerate(samples.feeds(name, graph)) if at in wanted}


def _announced(feeds: Mapping[int, Mapping[str, Any]], task: Task) -> str:
    tokens = sum(feed["input_ids"].size for feed in feeds.values())
    device = Device("cuda", "a GPU") if _providers(task.device)[0] == _CUDA else _cpu()
    return announce([device], f"{len(feeds)} passages with {tokens} tokens")


def _cpu() -> Device:
    return Device("cpu", f"CPU, {processors()} cores")


def _providers(device: str) -> list[str]:
    """What onnxruntime computes with, the best first; `UsageError` if a GPU is asked for of which it knows nothing."""
    import onnxruntime

    if device == "cpu":
        return [_CPU]
    if _CUDA in onnxruntime.get_available_providers():
        return [_CUDA, _CPU]
    if device != "auto":
        hint = "--device cpu, or install the package onnxruntime-gpu instead of onnxruntime"
        raise UsageError("this onnxruntime computes on the CPU alone", expected=device, found=_CPU, hint=hint)
    return [_CPU]


def _session(name: str, task: Task) -> Any:
    """The model, loaded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _SILENT
    options.intra_op_num_threads, options.inter_op_num_threads = processors(), 1
    providers = _providers(task.device)
    with _beside_its_data(Source.of(task.source, name), task.target) as path:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    if task.device.startswith("cuda") and session.get_providers()[0] != _CUDA:
        what, found = "there is no GPU that onnxruntime can use", ", ".join(session.get_providers())
        raise UsageError(what, expected=task.device, found=found, hint="--device cpu")
    return session


@contextmanager
def _beside_its_data(source: Source, target: Path) -> Iterator[Path]:
    """The model where onnxruntime finds its external data: it takes none that a link leads to out of the folder."""
    folder = PurePosixPath(source.name).parent
    home = source.path.resolve().parent
    if all((source.root / each).resolve().is_relative_to(home) for each in source.data):
        yield source.path
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=target) as scratch:
        for each in (source.name, *source.data):
            copy = Path(scratch, os.path.relpath(each, folder))
            copy.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy((source.root / each).resolve(), copy)
        yield Path(scratch, PurePosixPath(source.name).name)


def _link_or_copy(path: Path, copy: Path) -> None:
    try:
        copy.hardlink_to(path)
    except OSError:  # another file system
        shutil.copyfile(path, copy)


@dataclass
class Model:
    """A model that is loaded, and the folder that says how the vectors of its tokens become one."""

    session: Any
    source: Path

    def vector(self, feed: Mapping[str, Any]) -> NDArray[Any]:
        """The vector of one passage, of length 1 and in float64; NaN where its numbers are none."""
        import numpy as np

        names = [output.name for output in self.session.get_outputs()]
        made = dict(zip(names, self.session.run(None, dict(feed)), strict=True))
        name = chosen({key: value.ndim for key, value in made.items() if isinstance(value, np.ndarray)})
        if not name:
            raise ModelError("none of its outputs is a vector, or one for each token", found=", ".join(names))
        value = made[name][0].astype(np.float64)
        if value.ndim == 2:
            mask = feed.get("attention_mask", np.ones_like(feed["input_ids"]))[0]
            value = pooled(value, mask, self.pooling)
        with np.errstate(all="ignore"):
            return np.asarray(value / np.linalg.norm(value))

    @cached_property
    def pooling(self) -> tuple[str, ...]:
        """How the vectors of tokens become one."""
        return pooling_of(self.source)


def pooled(tokens: NDArray[Any], mask: NDArray[Any], modes: Sequence[str]) -> NDArray[Any]:
    """One vector of those of the tokens, (tokens, size), that the mask keeps: by each mode, one after the other."""
    import numpy as np

    kept = tokens[mask > 0]
    known = {"mean": lambda: kept.mean(axis=0), "cls": lambda: kept[0]}
    return np.concatenate([known[mode]() for mode in modes])


def pooling_of(source: Path) -> tuple[str, ...]:
    """How the vectors of tokens become one: `mean` or `cls`; `UsageError` if the model asks for another way."""
    path = source / POOLING
    if not path.is_file():
        return ("mean",)
    said = json.loads(path.read_bytes())
    modes = said.get("pooling_mode") or [mode for flag, mode in _FLAGS.items() if said.get(flag)]
    wanted = [modes] if isinstance(modes, str) else [*modes]
    if unknown := [mode for mode in wanted if mode not in _POOLED]:
        found = printable(", ".join(map(str, unknown)))
        raise UsageError("tokens are put together in another way", subject=POOLING, expected="mean, cls", found=found)
    return tuple(_POOLED[mode] for mode in wanted) or ("mean",)


def _keep(vector: NDArray[Any], tokens: NDArray[Any], at: int, task: Task) -> None:
    """Write what is known of a passage now; `ModelError` if the baseline itself computes nothing."""
    import numpy as np

    path = passage(task.target, at)
    against = task.settings.get("against")
    if against:
        _save(*_compared(passage(Path(against), at), vector, tokens), path)
    elif np.isfinite(vector).all():
        _save({"vector": vector, "tokens": tokens.reshape(-1).astype(np.int64)}, {}, path)
    else:
        hint = "look for what is wrong with it: packer validate --deep"
        raise ModelError("the baseline computes numbers that are none", found="NaN or Inf in its vector", hint=hint)


def _compared(
    baseline: Path, vector: NDArray[Any], tokens: NDArray[Any]
) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The cosine, or why there is none."""
    from safetensors.numpy import load_file

    before = load_file(baseline)
    if before["tokens"].tolist() != tokens.reshape(-1).tolist():
        return {}, {"failure": OTHER_TOKENS}
    if before["vector"].size != vector.size:
        return {}, {"failure": f"the candidate's vectors have {vector.size} numbers, not {before['vector'].size}"}
    return {"cosine": cosine(before["vector"], vector)}, {}


def cosine(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    """The cosine of the angle between two vectors, in an array of one: exactly 1 for the same; NaN stays NaN."""
    import numpy as np

    with np.errstate(all="ignore"):
        return np.asarray(np.clip([one @ other / np.sqrt((one @ one) * (other @ other))], -1.0, 1.0))


def _save(tensors: Mapping[str, Any], metadata: dict[str, str], path: Path) -> None:
    from safetensors.numpy import save_file

    with whole_file(path) as scratch:
        save_file(dict(tensors), scratch, metadata)
