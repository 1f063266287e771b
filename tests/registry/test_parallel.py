"""Steps side by side."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from threading import Event

import pytest

from registry.errors import TransferError
from registry.parallel import Step, run_steps
from tests.parts import tiny
from tests.parts.command import PACKER, release


def test_all_steps_are_done() -> None:
    left, done = list(range(100)), list[int]()

    def following() -> Step | None:
        try:
            number = left.pop(0)
        except IndexError:
            return None
        return lambda stop: done.append(number)

    run_steps(following, 4)
    assert sorted(done) == list(range(100))


def test_the_first_failure_stops_all_and_is_raised() -> None:
    started = list[int]()

    def following() -> Step | None:
        number = len(started)
        started.append(number)

        def step(stop: Event) -> None:
            if number == 3:
                raise TransferError("the third")
            assert stop.wait(20), "nobody told it to stop"

        return step

    began = time.monotonic()
    with pytest.raises(TransferError, match="the third"):
        run_steps(following, 4)
    assert len(started) <= 5
    assert time.monotonic() - began < 15


def test_an_interruption_is_not_kept_waiting(tmp_path: Path) -> None:
    """A registry that never answers would keep it for two minutes."""
    layout = tmp_path / "layout"
    release(tiny.write_folder(tmp_path / "model", tiny.SHARDED), "--to", f"oci:{layout}:v1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command: list[str | Path] = [PACKER, "push", f"oci:{layout}:v1", f"{address}/a/b:v1"]
        environment = {**os.environ, "PACKER_CACHE": str(tmp_path / "cache")}
        process = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        silent.settimeout(30)
        connection, _ = silent.accept()
        with connection:
            connection.recv(10)
            time.sleep(0.2)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "interrupted" in said
    assert time.monotonic() - began < 30
