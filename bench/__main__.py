"""`make bench`: everything measured side by side, and docs/benchmarks.md written.

`python -m bench PART...` measures some parts alone, and writes only those that have a section of their own.
"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import deep, evaluate, gpu, headers, listener, quantize, registry, shards
from bench.document import table, write_head, write_section
from bench.measure import ROOT, RUNS, Row

QUANTIZE, EVALUATE, LISTENER = "quantize", "evaluate", "listener"
"""The parts that have a section of their own."""

_HEAD = """# Benchmarks

Written by `make bench` on {date}, on {machine}, from files on {place}. Each figure is the median of {runs} runs of a
process of its own ({slow_runs} where slow tools fill registries); what is compared runs in turn. Memory is the peak of
the process, CPU its processor time and that of its children.

"""
_QUANTIZE = """
FP8 with scales per channel (`fp8-dynamic`), measured by `python -m bench quantize` on {date}, on {machine}, from
files on disk. Figures of the small model are medians of {runs} runs, those of the large one are of one run. Memory is
the peak of all processes together, pages of mapped files among them. In the minute before it began, {load:.1f} other
processes ran on average.

"""
_EVALUATE = """
SmolLM2-135M, measured by `python -m bench evaluate` on {date}, on {machine}. Figures are medians of {runs} runs, but
where one is said. Memory is the peak of all processes together. packer's figures include the report. In the minute
before it began, {load:.1f} other processes ran on average.

"""
_LISTENER = """
Deliveries of a docker registry to `packer serve`, measured by `python -m bench listener` on {date}, on {machine}, with
its database on disk, in {runs} run. They are sent at their times, whether or not those before were answered, and an
answer's time counts from when its delivery should have been sent. In the minute before it began, {load:.1f} other
processes ran on average.

"""


def main(names: Sequence[str] = ()) -> None:
    """Measure these parts, or all; print; write what the table and the sections then hold."""
    parts = (*_PARTS, QUANTIZE, EVALUATE, LISTENER)
    if unknown := set(names) - set(parts):
        sys.exit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    place = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
    with tempfile.TemporaryDirectory(dir=place, prefix="packer-bench-") as folder:
        rows = [_told(row) for name in names or _PARTS if name in _PARTS for row in _PARTS[name](Path(folder))]
    if not names:
        _write(rows, "tmpfs" if place.name == "shm" else "disk")
    if not names or QUANTIZE in names:
        _section("Quantization", _QUANTIZE, quantize.RUNS, quantize.run())
    if not names or EVALUATE in names:
        _section("Evaluation", _EVALUATE, evaluate.RUNS, evaluate.run())
    if not names or LISTENER in names:
        _section("Listener", _LISTENER, 1, listener.run())
    gpu.require_section()


def _section(title: str, head: str, runs: int, part: Iterable[Row]) -> None:
    """Measure a part, and write its section."""
    load = os.getloadavg()[0]
    rows = list(map(_told, part))
    head = head.lstrip().format(date=_today(), machine=_machine(), runs=runs, load=load)
    write_section(title, head + table(rows))


def _told(row: Row) -> Row:
    print(f"{row.what}: {row.ours}; {row.theirs}; {row.ratio} (goal: {row.goal})", flush=True)
    return row


def _write(rows: Sequence[Row], place: str) -> None:
    head = _HEAD.format(date=_today(), machine=_machine(), place=place, runs=RUNS, slow_runs=registry.SLOW_RUNS)
    write_head(head + table(rows))


def _today() -> str:
    return datetime.now(UTC).date().isoformat()


def _headers(folder: Path) -> Iterable[Row]:
    return headers.run(folder, next((ROOT / ".cache/models/smollm2-gguf").glob("*.gguf")))


_PARTS: dict[str, Callable[[Path], Iterable[Row]]] = {
    "headers": _headers,
    "shards": shards.run,
    "deep": deep.run,
    "registry": registry.run,
}


def _machine() -> str:
    """The processor, how many of it, memory, kernel."""
    information = Path("/proc/cpuinfo").read_text()
    name = next((line.partition(": ")[2] for line in information.split("\n") if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {name or platform.machine()}, {memory:.0f} GiB, {versions}"


if __name__ == "__main__":
    main(sys.argv[1:])
