"""The child that works on a model: `python -m recipes.worker PARENT`. It takes a task and tells what becomes of it.

On Linux it dies with its parent. What libraries print goes to standard error; standard output is for the parent alone.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from recipes.child import is_about_memory
from recipes.task import Done, Step, Task, Tell
from registry.errors import PackerError

ENGINES = {
    "llmcompressor": "recipes.engines.llmcompressor",
    "onnxruntime": "recipes.engines.onnx",
    "llama.cpp": "recipes.engines.gguf",
    "transformers": "recipes.evaluation.engines.fidelity",
    "llama-cpp-python": "recipes.evaluation.engines.fidelity",
    "onnxruntime embeddings": "recipes.evaluation.engines.embeddings",
    "lm-eval": "recipes.evaluation.engines.tasks",
    "compressed-tensors": "recipes.evaluation.engines.weights",
}
_PR_SET_PDEATHSIG = 1
_PAUSE = 0.1
"""Seconds between two steps that are told."""


def main() -> None:
    """Read a task from standard input, do it, and write lines of JSON to what was standard output."""
    _die_with_parent()
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the process that wanted this is gone")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    task = Task.from_json(json.loads(sys.stdin.read()))
    began = time.monotonic()

    def write(event: str, **members: Any) -> None:
        answers.write(json.dumps({"event": event, **members}) + "\n")
        answers.flush()

    told = 0.0

    def tell(what: Step | str) -> None:
        nonlocal told
        if isinstance(what, str):
            write("note", text=what)
        elif what.done == what.total or time.monotonic() - told >= _PAUSE:
            told = time.monotonic()
            write("step", **{**vars(what), **_peaks()})

    event, members = _outcome(task, tell)
    write(event, **members, seconds=time.monotonic() - began, kind=_kind_of_device(), **_peaks())


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends. Linux's alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _outcome(task: Task, tell: Tell) -> tuple[str, dict[str, Any]]:
    try:
        run: Callable[[Task, Tell], Done] = importlib.import_module(ENGINES[task.engine]).run
        return "done", {"done": run(task, tell).to_json()}
    except PackerError as error:
        return "failed", {"cause": type(error).__name__, "error": _members(error)}
    except ModuleNotFoundError as error:
        traceback.print_exc()
        return "failed", {"cause": "missing", "module": error.name}
    except MemoryError as error:
        return "failed", {"cause": "memory", "found": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever a library raises, the parent tells
        traceback.print_exc()
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return "failed", {"cause": _kind(error), "found": text[:500]}


def _members(error: PackerError) -> dict[str, Any]:
    members = {key: getattr(error, key) for key in ("what", "subject", "hint")}
    return {**members, **{key: str(value) for key in ("expected", "found") if (value := getattr(error, key))}}


def _kind(error: BaseException | None) -> str:
    """Whether memory or disk ran out: libraries have many ways to say so, one inside the other."""
    while error:
        text = str(error)
        if isinstance(error, MemoryError) or is_about_memory(text):
            return "memory"
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text:
            return "disk"
        error = error.__cause__ or error.__context__
    return "library"


def _peaks() -> dict[str, int]:
    """Bytes of memory that were used at most: on the host by one process, ours or a tool's, and on all devices."""
    host = max(_peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
    torch = sys.modules.get("torch")
    if not torch or not torch.cuda.is_initialized():
        return {"host": host, "device": 0}
    return {"host": host, "device": sum(map(torch.cuda.max_memory_allocated, range(torch.cuda.device_count())))}


def _peak() -> int:
    """Of this process: since it was started, while `ru_maxrss` counts what its parent had before that."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _kind_of_device() -> str:
    """What computed: `cpu`, or the names of the GPUs on which memory was used."""
    torch = sys.modules.get("torch")
    if not torch or not torch.cuda.is_initialized():
        return "cpu"
    used = filter(torch.cuda.max_memory_allocated, range(torch.cuda.device_count()))
    return " and ".join(sorted({torch.cuda.get_device_name(at) for at in used})) or "cpu"


if __name__ == "__main__":
    main()
