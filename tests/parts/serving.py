"""`packer serve` as a process of its own, and what it says over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.parts.command import PACKER
from tests.parts.servers import Server, end, serving

TOKEN = "Bearer of-the-registry"
HUB_SECRET = "of-the-hub"
PLAIN_SECRET = "of-ours"
SECRETS = {"HOOK_TOKEN": TOKEN, "HF_HOOK": HUB_SECRET, "PLAIN_HOOK": PLAIN_SECRET}

HOOKS = (
    {"kind": "distribution", "path": "/hooks/registry", "secret": {"from_env": "HOOK_TOKEN"}, "rate": 1_000_000},
    {"kind": "huggingface", "path": "/hooks/hf", "secret": {"from_env": "HF_HOOK"}, "rate": 1_000_000},
    {"kind": "plain", "path": "/hooks/plain", "secret": {"from_env": "PLAIN_HOOK"}, "rate": 1_000_000},
)


@dataclass(frozen=True)
class Listener:
    """A listener on loopback, by its configuration."""

    config: Path
    address: str
    environment: Mapping[str, str]

    @contextmanager
    def running(self) -> Iterator[Server]:
        """The process, ended with SIGTERM."""
        command: list[str | Path] = [PACKER, "serve", "--config", self.config]
        with serving(command, self.address, "/healthz", self.config.with_name("serve.log"), self.environment) as server:
            yield server

    @contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """The process itself, once it answers."""
        environment = {**os.environ, **self.environment}
        with self.config.with_name("serve.log").open("ab") as log:
            command = [str(PACKER), "serve", "--config", str(self.config)]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                self.until(lambda: self._answers(process), "it answers")
                yield process
            finally:
                end(process)

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        assert process.poll() is None, self.config.with_name("serve.log").read_text()[-3000:]
        try:
            return bool(self.get("/healthz"))
        except OSError:
            return False

    def get(self, path: str) -> bytes:
        """The body of an answer."""
        with urllib.request.urlopen(f"http://{self.address}{path}", timeout=30) as answer:
            return bytes(answer.read())

    def all(self, what: str) -> list[dict[str, Any]]:
        """All events, runs or builds, the newest first."""
        found: list[dict[str, Any]] = []
        page: dict[str, Any] = {"before": ""}
        while page.get("before") is not None:
            more = f"&before={page['before']}" if page["before"] else ""
            page = json.loads(self.get(f"/api/{what}?limit=500{more}"))
            found += page["items"]
        return found

    def runs(self, state: str) -> list[dict[str, Any]]:
        """The runs of a state, the oldest first."""
        return [run for run in reversed(self.all("runs")) if run["state"] == state]

    def is_still(self) -> bool:
        """Whether nothing waits and nothing runs."""
        builds = json.loads(self.get("/api/builds"))["items"]
        waiting = any(event["state"] == "accepted" for event in self.all("events"))
        return not waiting and not any(build["due"] or build["running"] for build in builds)

    def until(self, what: Callable[[], object], said: str, seconds: float = 120) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, (
                f"never: {said}\n{self.config.with_name('serve.log').read_text()[-3000:]}"
            )
            time.sleep(0.1)


def listener(folder: Path, port: int, environment: Mapping[str, str] | None = None, **said: Any) -> Listener:
    """One that looks after the build files in the folders of `folder`; it waits for half a second of quiet."""
    address = f"127.0.0.1:{port}"
    document = {
        "builds": ["./*/packer.yaml"],
        "listen": address,
        "sources": list(HOOKS),
        "quiet": 0.5,
        "retries": {"first": 1},
        **said,
    }
    config = folder / "serve.yaml"
    config.write_text(yaml.safe_dump(document))
    return Listener(config, address, {**SECRETS, **(environment or {})})


def notifying(port: int) -> str:
    """The configuration of a docker-registry that calls the listener at a port."""
    url = f"http://127.0.0.1:{port}/hooks/registry"
    patience = "timeout: 10s, threshold: 3, backoff: 1s"
    endpoint = f"{{name: packer, url: '{url}', headers: {{Authorization: [{TOKEN}]}}, {patience}}}"
    return f"notifications: {{endpoints: [{endpoint}]}}"
