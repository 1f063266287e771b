"""Deliveries to a running listener: `python -m bench listener`.

The listener has one core, with its dispatcher, its pages and its database, which is on the disk. Deliveries are sent at
their times, whether or not those before were answered, and an answer's time counts from when it should have been sent.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from bench.measure import Row

RATE = 200
SECONDS = 60
_SENDERS = 16
_SECRET = "Bearer benchmark"
_PACKER = Path(sys.executable).with_name("packer")
_PERCENTILES = (50, 99, 100)

_CONFIG = """
builds: ["models/*/packer.yaml"]
listen: 127.0.0.1:0
sources:
  - {kind: distribution, path: /hooks/registry, rate: 1000000, secret: {from_env: BENCH_SECRET}}
"""


def run(seconds: int = SECONDS) -> Iterator[Row]:
    """What it takes to keep deliveries that come at a rate."""
    with tempfile.TemporaryDirectory(prefix="packer-bench-") as folder, _served(Path(folder)) as (port, process):
        before = _cpu(process)
        times, errors = _sent(port, RATE * seconds)
        used = (_cpu(process) - before) / seconds
        kept = _kept(port)
    found = ", ".join(f"{_name(share)} {_percentile(times, share) * 1000:.1f} ms" for share in _PERCENTILES)
    yield Row(
        f"{RATE} deliveries a second for {seconds} s, on one core",
        f"{errors} errors, {kept:,} of {RATE * seconds:,} kept; {found}; {used:.0%} of the core",
        "",
        "",
        "no error, p99 under 50 ms",
    )


def _name(share: int) -> str:
    return "slowest" if share == 100 else f"p{share}"


def _percentile(times: list[float], share: int) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * share // 100)]


@contextmanager
def _served(folder: Path) -> Iterator[tuple[int, int]]:
    """A listener on the first core, its port and its process."""
    config, log = folder / "serve.yaml", folder / "log"
    config.write_text(_CONFIG)
    core = min(os.sched_getaffinity(0))
    environment = {**os.environ, "BENCH_SECRET": _SECRET}
    command: list[str | Path] = ["taskset", "--cpu-list", str(core), _PACKER, "serve", "--config", config]
    with log.open("wb") as output, subprocess.Popen(command, env=environment, cwd=folder, stderr=output) as process:
        try:
            yield _port(process, log), process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    while process.poll() is None:
        for line in log.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("what") == "listening":
                return int(event["address"].rpartition(":")[2])
        time.sleep(0.1)
    raise SystemExit(log.read_text())


def _sent(port: int, count: int) -> tuple[list[float], int]:
    """How long each answer took, in seconds, and how many were none or another than 202."""
    begin = time.monotonic() + 0.5
    with ThreadPoolExecutor(_SENDERS) as pool:
        parts = list(pool.map(lambda first: _part(port, begin, range(first, count, _SENDERS)), range(_SENDERS)))
    return [one for times, _ in parts for one in times], sum(errors for _, errors in parts)


def _part(port: int, begin: float, numbers: range) -> tuple[list[float], int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    times, errors = list[float](), 0
    for number in numbers:
        due = begin + number / RATE
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            connection.request("POST", "/hooks/registry", _body(number), {"Authorization": _SECRET})
            response = connection.getresponse()
            response.read()
            errors += response.status != 202
        except (OSError, http.client.HTTPException):
            connection.close()
            errors += 1
        times.append(time.monotonic() - due)
    connection.close()
    return times, errors


def _body(number: int) -> bytes:
    """A push of a tag, as docker's registry tells it."""
    digest = f"sha256:{number:064x}"
    kind = "application/vnd.oci.image.manifest.v1+json"
    target = {"mediaType": kind, "digest": digest, "repository": f"base/image{number % 3}", "tag": f"v{number}"}
    request = {"host": "registry.example.com", "method": "PUT", "addr": "192.0.2.1:1"}
    event = {"id": f"bench-{number}", "action": "push", "target": target, "request": request}
    return json.dumps({"events": [event]}).encode()


def _cpu(process: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kept(port: int) -> int:
    """The number of the newest event: they are counted from 1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/api/events?limit=1")
    return int(json.loads(connection.getresponse().read())["items"][0]["id"])
