"""`make bench`: everything measured side by side, and docs/benchmarks.md written."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench import deep, headers, shards
from bench.measure import ROOT, RUNS, Row

_HEAD = """# Benchmarks

Written by `make bench` on {date}, on {machine}, from files on {place}. Each figure is the median of {runs} runs of a
process of its own; what is compared runs in turn. Memory is the peak of the process.

| what | packer | beside | ratio | goal |
|---|---|---|---|---|
"""


def main() -> None:
    """Measure, print and write."""
    place = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())
    with tempfile.TemporaryDirectory(dir=place, prefix="packer-bench-") as folder:
        rows = []
        for row in _rows(Path(folder)):
            print(f"{row.what}: {row.ours}; {row.theirs}; {row.ratio} (goal: {row.goal})", flush=True)
            rows.append(row)
    date = datetime.now(UTC).date().isoformat()
    head = _HEAD.format(date=date, machine=_machine(), place="tmpfs" if place.name == "shm" else "disk", runs=RUNS)
    text = head + "".join(f"| {row.what} | {row.ours} | {row.theirs} | {row.ratio} | {row.goal} |\n" for row in rows)
    (ROOT / "docs/benchmarks.md").write_text(text, encoding="utf-8")


def _rows(folder: Path) -> Iterator[Row]:
    gguf = next((ROOT / ".cache/models/smollm2-gguf").glob("*.gguf"))
    yield from headers.run(folder, gguf)
    yield from shards.run(folder)
    yield from deep.run(folder)


def _machine() -> str:
    """The processor, how many of it, memory, kernel."""
    information = Path("/proc/cpuinfo").read_text()
    name = next((line.partition(": ")[2] for line in information.split("\n") if line.startswith("model name")), "")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = f"Linux {platform.release()}, Python {platform.python_version()}"
    return f"{os.cpu_count()} cores of {name or platform.machine()}, {memory:.0f} GiB, {versions}"


if __name__ == "__main__":
    main()
