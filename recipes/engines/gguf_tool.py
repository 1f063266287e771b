"""llama.cpp at work: its program `llama-quantize` where there is one, else its library in the package `llama_cpp`.

https://github.com/ggml-org/llama.cpp/tree/master/tools/quantize; the library's functions are those of `llama.h`.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from recipes.task import Step, Tell
from registry.errors import ModelError, SpaceError, UsageError

PROGRAM = "llama-quantize"

_PROGRESS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]\s+(\S+)")
_FAILED = re.compile(r"failed to quantize: (.+)")
_EMPTY = "failed to quantize model from"
_KEPT_LINES = 20
_MAX_SAID = 300
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Order:
    """What to make of `source`, a whole file or a split's first part: `target`.

    `kind` is llama.cpp's name of the type and `number` its `enum llama_ftype`. With `keep_split` the target's name
    stands for parts as many as the source has, which llama.cpp numbers.
    """

    source: Path
    target: Path
    kind: str
    number: int
    requantize: bool = False
    keep_split: bool = False

    def to(self, target: Path, *, keep_split: bool = False) -> Order:
        """The same, written to another place."""
        return replace(self, target=target, keep_split=keep_split)


def quantize(order: Order, tell: Tell) -> None:
    """Write `order.target`, and tell each tensor as it is done. A failure leaves an unfinished target behind.

    `UsageError` if llama.cpp is not installed or too old for the type, `ModelError` with what it said if it fails,
    `SpaceError` if it could not write, or was killed, which it is as a rule for want of memory.
    """
    program = shutil.which(PROGRAM)
    _by_program(program, order, tell) if program else _by_package(order, tell)


class _Log:
    """What llama.cpp says, in lines: progress is told, and the last lines are kept for an error."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._open = ""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def hear(self, text: str) -> None:
        """A piece of the log; a line may come in several."""
        *lines, self._open = (self._open + text).split("\n")
        for line in lines:
            self._line(line.strip())

    def _line(self, line: str) -> None:
        if match := _PROGRESS.match(line):
            self._tell(Step(int(match[1]), int(match[2]), "tensors", match[3]))
        if line and _EMPTY not in line:
            self._lines.append(line)

    def reason(self) -> str:
        """Why it failed, in its own words: the cause that it named, or the last line."""
        self.hear("\n")
        causes = [match[1] for match in map(_FAILED.search, self._lines) if match]
        return (causes or list(self._lines) or ["nothing"])[-1][:_MAX_SAID]


def _by_program(program: str, order: Order, tell: Tell) -> None:
    flags = ["--allow-requantize"] * order.requantize + ["--keep-split"] * order.keep_split
    command = [program, *flags, str(order.source.absolute()), str(order.target.absolute()), order.kind]
    log = _Log(tell)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=_dying_with(os.getpid()),  # noqa: PLW1509 - what runs there takes no lock
    ) as process:
        try:
            assert process.stdout
            for line in process.stdout:
                log.hear(line)
        except BaseException:
            process.kill()
            raise
    _check(process.returncode, order, log)


def _dying_with(parent: int) -> Callable[[], None] | None:
    """To be called in a new process: the kernel kills it when the thread that started it ends, however that ends.

    Linux's alone: elsewhere the program ends at the next line that it writes to nobody.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def die_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before
            os._exit(1)

    return die_with_parent


def _by_package(order: Order, tell: Tell) -> None:
    """By `llama_cpp`'s low-level interface: https://llama-cpp-python.readthedocs.io/en/latest/api-reference/."""
    try:
        llama_cpp: Any = import_module("llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:  # the last two when its library does not load
        raise UsageError(
            "llama.cpp is not installed",
            expected=f"its program {PROGRAM} on PATH, or the package llama-cpp-python",
            found=str(error),
            hint="install llama.cpp's tools, or pip install 'packer[llama]'",
        ) from error
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.keep_split = order.number, order.requantize, order.keep_split
    # with keep_split the library takes the name without what follows the numbers
    target = order.target.with_suffix("") if order.keep_split else order.target
    log = _Log(tell)
    hear = _listener(llama_cpp, log)
    llama_cpp.llama_log_set(hear, ctypes.c_void_p(0))
    try:
        code = llama_cpp.llama_model_quantize(str(order.source).encode(), str(target).encode(), ctypes.byref(params))
    finally:
        llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), ctypes.c_void_p(0))  # to standard error, as before
    _check(code, order, log)


def _listener(llama_cpp: Any, log: _Log) -> Any:
    def hear(_level: int, text: bytes, _data: object) -> None:
        log.hear(text.decode(errors="replace"))

    return llama_cpp.llama_log_callback(hear)


def _check(code: int, order: Order, log: _Log) -> None:
    """Raise for an exit code that is not 0."""
    name = order.source.name
    if not code:
        return
    if code == -signal.SIGKILL:
        raise SpaceError("llama.cpp was killed: there is too little memory, as a rule", subject=name)
    said = log.reason()
    if "iostream error" in said:  # all that it says when a write fails
        raise SpaceError("llama.cpp could not write: the disk is full, as a rule", subject=name, found=said)
    if "invalid ftype" in said:
        hint = "install a newer llama.cpp, or choose another type"
        raise UsageError("this llama.cpp is too old for the type", subject=order.kind, found=said, hint=hint)
    raise ModelError("llama.cpp could not quantize the model", subject=name, found=said)
