"""Fidelity: what a language model makes of passages of text, token by token, against what its baseline made of them.

A run on the baseline leaves a trace of each passage: its tokens, and the states before the last linear layer, from
which the probabilities of all tokens follow. They take a hundredth of the space of the probabilities themselves. A run
on a candidate reads the traces and leaves, for each passage, numbers for each token.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from recipes.engines.devices import Device, announce
from recipes.task import Done, Step, Task, Tell, whole_file
from registry.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

HEAD = "head.safetensors"
"""The last linear layer of the baseline, beside its traces."""

BACKENDS = {
    "transformers": "recipes.evaluation.engines.transformers",
    "llama-cpp-python": "recipes.evaluation.engines.llama",
}

OTHER_TOKENS = "the candidate splits a text into other tokens than the baseline"
"""Why a passage cannot be compared."""

PASSAGES = "passages of the text"
"""What samples are called here."""

_ROWS = 64
"""Positions whose probabilities are in memory at once, in float64."""


class Backend(Protocol):
    """What runs a model. Only its tokenizer is loaded before `load`."""

    rows: Sequence[Sequence[int]]
    """The tokens of each passage."""

    def pieces(self, row: Sequence[int]) -> list[str]:
        """What each token stands for."""

    def load(self) -> None:
        """Load the model."""

    def predict(self, row: Sequence[int]) -> tuple[Tensor, Tensor | None]:
        """The logits after each token, (tokens, vocabulary), and the states that they were made of, if known."""

    def head(self) -> Mapping[str, Tensor] | None:
        """`weight` and perhaps `bias` of the linear layer that makes logits of states, if nothing comes after it."""


def run(task: Task, tell: Tell) -> Done:
    """The passages from `first` to `last` (exclusive) of the task's samples, one file each; what is whole stays.

    For a candidate `settings` name the folder of traces that it is measured `against`.
    """
    backend: Backend = importlib.import_module(BACKENDS[task.engine]).Backend(task, tell)
    if left := unmeasured(task, len(backend.rows)):
        last = min(task.settings["last"], len(backend.rows))
        _run(backend, left, task, lambda at: tell(Step(at + 1, last, "passages", "")))
    return Done(facts={"units": len(backend.rows)})


def _run(backend: Backend, left: Sequence[int], task: Task, done: Callable[[int], None]) -> None:
    import torch

    against = task.settings.get("against")
    with torch.inference_mode():
        backend.load()
        for at in left:
            if against:
                _measure(backend, backend.rows[at], passage(Path(against), at), passage(task.target, at))
            else:
                _trace(backend, backend.rows[at], passage(task.target, at))
            done(at)


def unmeasured(task: Task, units: int) -> list[int]:
    """The passages from `first` to `last` of which there is no file, of as many `units` as there are."""
    wanted = range(task.settings["first"], min(task.settings["last"], units))
    return [at for at in wanted if not passage(task.target, at).exists()]


def announced(task: Task, rows: Sequence[Sequence[int]], devices: Sequence[Device]) -> str:
    """What is said before a language model goes through the rows of a task: how long it takes is known when it has gone
    through some.
    """
    left = unmeasured(task, len(rows))
    return announce(devices, f"{len(left)} passages with {sum(len(rows[at]) for at in left)} tokens")


def passage(folder: Path, at: int) -> Path:
    """The file of a passage."""
    return folder / f"{at:06}.safetensors"


def _trace(backend: Backend, row: Sequence[int], path: Path) -> None:
    import torch

    logits, states = backend.predict(row)
    _require_finite(logits)
    made: dict[str, Tensor] = {"tokens": torch.tensor(row)}
    if states is not None and _have_head(backend, states, logits, path.parent / HEAD):
        made["states"] = states
    else:
        made["logits"] = logits.float()
    _save(made, path, {"pieces": json.dumps(backend.pieces(row))})


def _require_finite(logits: Tensor) -> None:
    if logits.isnan().any() or logits.isposinf().any():
        hint = "evaluate it on another --device, or look for what is wrong with it: packer validate --deep"
        raise ModelError("the baseline computes numbers that are none", found="NaN or Inf in its logits", hint=hint)


def _have_head(backend: Backend, states: Tensor, logits: Tensor, path: Path) -> bool:
    """Whether the head is there, written if it was not, and makes these logits of these states."""
    head = backend.head()
    if head is None or not _logits(states, head).to(logits.dtype).equal(logits):
        return False
    if not path.exists():
        _save(head, path, {})
    return True


def _logits(states: Tensor, head: Mapping[str, Tensor]) -> Tensor:
    import torch

    return torch.nn.functional.linear(states[None], head["weight"], head.get("bias"))[0]


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    with whole_file(path) as scratch:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, scratch, metadata)


def _measure(backend: Backend, row: Sequence[int], trace: Path, path: Path) -> None:
    from safetensors.torch import load_file

    before = load_file(trace)
    if before["tokens"].tolist() != list(row):
        _save({}, path, {"failure": OTHER_TOKENS})
        return
    logits, _ = backend.predict(row)
    expected = before["logits"] if "logits" in before else _replayed(before["states"], trace.parent / HEAD, logits)
    if expected.shape != logits.shape:
        _save({}, path, {"failure": f"the candidate knows {logits.shape[1]} tokens, not {expected.shape[1]}"})
        return
    _save(compare(expected[:-1].to(logits.device), logits[:-1], before["tokens"][1:].to(logits.device)), path, {})


def _replayed(states: Tensor, path: Path, like: Tensor) -> Tensor:
    """The baseline's logits, computed where the candidate's were."""
    head = _loaded(path, like.device)
    return _logits(states.to(like.device), head)


_heads: dict[Path, Any] = {}


def _loaded(path: Path, device: Any) -> Any:
    from safetensors.torch import load_file

    if path not in _heads:
        _heads[path] = load_file(path, device=str(device))
    return _heads[path]


def compare(baseline: Tensor, candidate: Tensor, following: Tensor) -> dict[str, Tensor]:
    """Numbers for each position, from the logits of both, (positions, vocabulary), and the tokens that follow.

    `divergence` is the Kullback-Leibler divergence D(baseline || candidate), `loss_baseline` and `loss_candidate` are
    negative logarithms of the probability of the token that follows, all in nats, computed in float64; `agree` says
    whether both find the same token the likeliest, `right_baseline` and `right_candidate` whether that is the one.
    """
    import torch

    parts = [
        _compare(*chunk)
        for chunk in zip(baseline.split(_ROWS), candidate.split(_ROWS), following.split(_ROWS), strict=True)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _compare(baseline: Tensor, candidate: Tensor, following: Tensor) -> dict[str, Tensor]:
    import torch

    before, after = (torch.log_softmax(logits.double(), dim=-1) for logits in (baseline, candidate))
    likely, other = before.argmax(-1), after.argmax(-1)
    at = following[:, None]
    terms = torch.where(before.isneginf(), 0.0, before.exp() * (before - after))
    return {
        "divergence": terms.sum(-1).clamp_min(0),
        "loss_baseline": -before.gather(1, at)[:, 0],
        "loss_candidate": -after.gather(1, at)[:, 0],
        "agree": (likely == other).double(),
        "right_baseline": (likely == following).double(),
        "right_candidate": (other == following).double(),
    }
