"""The process that examines mutants: what `packer validate` would say of each, how long it takes and how much memory.

`python -m fuzz.subject`: a folder for each line of the standard input, after `warm ` if it is only to get ready.
"""

from __future__ import annotations

import ctypes
import gc
import resource
import time
import traceback
from pathlib import Path
from typing import Any

from formats.examine import Report, examine
from formats.findings import RejectedError, errors
from formats.snapshot import ModelFile, Origin, Snapshot
from fuzz.child import serve
from registry.blob import FileBlob
from registry.errors import PackerError

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_trim = ctypes.CDLL("libc.so.6").malloc_trim


def snapshot_of(folder: Path) -> Snapshot:
    """The files below a folder as a model."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return Snapshot.of(
        Origin("folder"), [ModelFile.of(path.relative_to(folder).as_posix(), FileBlob.at(path)) for path in paths]
    )


def main() -> None:
    """Answer until the standard input ends."""
    idle = 0

    def answer(line: str) -> dict[str, Any]:
        nonlocal idle
        if line.startswith("warm "):
            said = _examine(Path(line.removeprefix("warm ")), 0)
            gc.freeze()  # what the imports left is no longer collected with each mutant, which takes milliseconds
            idle = max(idle, _resting())
            return said
        _resting()
        _CLEAR.write_text("5")  # from here on, the peak is counted anew
        said = _examine(Path(line), idle)
        return {**said, "grown": _kilobytes("VmRSS") - idle}

    serve(answer)


def _examine(folder: Path, idle: int) -> dict[str, Any]:
    """What is said of a model; its tensors are listed when the measuring is over."""
    snapshot = snapshot_of(folder)
    start = _seconds()
    try:
        report = examine(snapshot)
        findings = report.findings
        for finding in findings:
            finding.to_json()
        if refusing := errors(findings):
            str(RejectedError(*refusing))
        said = {"accepted": not refusing, "rules": sorted({finding.rule.id for finding in refusing})}
        spent = {"seconds": _seconds() - start, "memory": _kilobytes("VmHWM") - idle}
        return {**said, **spent, "tensors": _tensors(report)}
    except PackerError as error:
        spent = {"seconds": _seconds() - start, "memory": _kilobytes("VmHWM") - idle}
        return {"accepted": False, "rules": [type(error).__name__], **spent}
    except BaseException:  # noqa: BLE001 - anything that comes is what is looked for
        return {"accepted": False, "rules": [], "seconds": 0.0, "crash": traceback.format_exc()}


def _seconds() -> float:
    """Time that this process and its children have worked: other work on the machine does not count."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def _tensors(report: Report) -> list[list[Any]]:
    return sorted([tensor.file, tensor.name, tensor.dtype, list(tensor.shape)] for tensor in report.tensors)


def _resting() -> int:
    """Kilobytes in memory when nothing goes on."""
    gc.collect()
    _trim(0)
    return _kilobytes("VmRSS")


def _kilobytes(name: str) -> int:
    text = _STATUS.read_text()
    at = text.index(name + ":")
    return int(text[at : text.index("kB", at)].split()[1])


if __name__ == "__main__":
    main()
