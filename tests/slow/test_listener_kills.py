"""A listener that is killed twenty times, while twenty clients send it a thousand events: `make test-slow`."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import os
import random
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from packer.listener.records import EventState, Run, RunState
from packer.listener.store import Store
from tests.parts import tiny
from tests.parts.command import PACKER, packer, release
from tests.parts.servers import Server, reserved_port
from tests.parts.serving import PLAIN_SECRET, Listener, listener

EVENTS, CLIENTS, KILLS = 1000, 20, 20
HOT, OTHERS = ("hot0", "hot1", "hot2"), tuple(f"other{n}" for n in range(9))
CHANGES = 24
"""Times that the source of a build is pushed anew, half of them while events come."""


class Sources:
    """A build for each name, over an artifact in a registry, and how often each was changed."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.host = folder, f"{address}/{folder.name.lower()}"
        self.pushed = dict.fromkeys((*HOT, *OTHERS), 0)
        for name in self.pushed:
            self.push(name)
            file = folder / name / "packer.yaml"
            file.parent.mkdir()
            publish = {"to": f"{self.host}/made/{name}:v1", "base": "none", "platforms": ["linux/amd64"]}
            file.write_text(json.dumps({"source": f"oci://{self.host}/{name}:main", "publish": publish}))

    def push(self, name: str) -> None:
        self.pushed[name] += 1
        model = self.folder / f"model-{name}"
        if not model.exists():
            tiny.write_folder(model, tiny.SHARDED)
        (model / "README.md").write_text(f"# {name}, number {self.pushed[name]}\n")
        flags = ("--base", "none", "--modelpack", "none", "--platform", "linux/amd64")
        release(model, "--to", f"{self.host}/{name}:main", *flags)


def send(found: Listener, name: str, identity: str, until: float) -> int:
    """Send an event until it is accepted, as a sender that repeats does; the number that it got."""
    body = json.dumps({"build": name, "id": identity}).encode()
    proof = f"sha256={hmac.new(PLAIN_SECRET.encode(), body, hashlib.sha256).hexdigest()}"
    while True:
        connection = http.client.HTTPConnection(found.address, timeout=30)
        try:
            connection.request("POST", "/hooks/plain", body, {"X-Packer-Signature-256": proof})
            answer = connection.getresponse()
            said = json.loads(answer.read())
            assert answer.status in (200, 202), said
            return int(said["event"])
        except (OSError, http.client.HTTPException):
            assert time.monotonic() < until, "the listener does not come back"
            time.sleep(0.05)
        finally:
            connection.close()


class Killed:
    """Keeps a listener running, whose process is killed now and then."""

    def __init__(self, found: Listener) -> None:
        self.found, self.kills = found, 0
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [str(PACKER), "serve", "--config", str(self.found.config)]
        environment = {**os.environ, **self.found.environment}
        with self.found.config.with_name("serve.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process.poll() is None, self.found.config.with_name("serve.log").read_text()[-3000:]
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kills += 1
        self.process = self._start()


def test_no_event_is_lost_and_nothing_is_built_in_vain(registry: Server, tmp_path: Path) -> None:
    chance = random.Random(8)
    sources = Sources(tmp_path, registry.address)
    names = [chance.choice(HOT) if n % 2 else chance.choice((*OTHERS, "nobody")) for n in range(EVENTS)]
    accepted: dict[str, int] = {}
    end = time.monotonic() + 1500
    with reserved_port() as port:
        found = listener(tmp_path, port, concurrency=2, quiet=0.2)
        kept = Killed(found)
        is_done = threading.Event()

        def keep_killing() -> None:
            for _ in range(KILLS):
                is_answering(found, end)
                time.sleep(chance.uniform(0.2, 4.0))
                kept.kill()
            is_done.set()

        def keep_changing() -> None:
            """A change, then the event about it, as a registry does."""
            for n in range(CHANGES):
                name = (*HOT, *OTHERS)[n % 12]
                sources.push(name)
                accepted[f"change{n}"] = send(found, name, f"change{n}", end)

        killer = threading.Thread(target=keep_killing)
        killer.start()
        changer = threading.Thread(target=keep_changing)
        changer.start()
        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as pool:
            accepted |= dict(pool.map(lambda n: paced(found, names[n], f"event{n}", end), range(EVENTS)))
        sent = time.monotonic() - began
        changer.join()
        killer.join()
        assert is_done.is_set() and kept.kills == KILLS
        is_answering(found, end)
        found.until(found.is_still, "all is done", 900)
        kept.process.send_signal(signal.SIGTERM)
        assert kept.process.wait(60) == 0
    judge(Store(f"sqlite:///{tmp_path / 'packer-state/listener.db'}"), sources, accepted, sent)


def is_answering(found: Listener, end: float) -> None:
    while time.monotonic() < end:
        try:
            found.get("/healthz")
        except OSError:
            time.sleep(0.05)
        else:
            return


def paced(found: Listener, name: str, identity: str, end: float) -> tuple[str, int]:
    time.sleep(random.uniform(0, 1.5))
    return identity, send(found, name, identity, end)


def judge(store: Store, sources: Sources, accepted: dict[str, int], sent: float) -> None:
    events = {event.id: event for event in store.events(limit=100_000)}
    runs = {run.id: run for run in store.runs(limit=100_000)}
    assert len(accepted) == EVENTS + CHANGES and len(set(accepted.values())) == len(accepted), "each has its own number"
    for number in accepted.values():
        assert events[number].state in (EventState.MATCHED, EventState.IGNORED), events[number]
        assert (events[number].state is EventState.IGNORED) == (events[number].changes[0].reference == "nobody")
        assert all(last_of(runs, one).state in (RunState.RELEASED, RunState.UNCHANGED) for one in events[number].runs)
        assert events[number].runs or events[number].state is EventState.IGNORED

    for name in sources.pushed:
        checked = packer("rebuild", sources.folder / name / "packer.yaml", "--check", check=False)
        assert checked.returncode == 0, f"{name} was changed and not built\n{checked.stdout}"
        mine = sorted((run for run in runs.values() if run.build == name), key=lambda run: run.id)
        released = [run for run in mine if run.state is RunState.RELEASED]
        assert all(run.changed for run in released)
        assert len(released) <= sources.pushed[name], "nothing is released twice"
        assert all(before.ended and before.ended <= after.began for before, after in pairwise(mine)), "one at a time"

    states = {state: sum(run.state is state for run in runs.values()) for state in RunState}
    print(
        f"\n{len(accepted)} events in {sent:.0f} s, {KILLS} kills, {sum(sources.pushed.values())} inputs: "
        + ", ".join(f"{count} {state}" for state, count in states.items() if count)
    )
    store.close()


def last_of(runs: dict[int, Run], number: int) -> Run:
    """The run that came of a run, in the end: what was interrupted is repeated."""
    found = runs[number]
    while later := next((run for run in runs.values() if run.after == found.id), None):
        found = later
    if found.state is RunState.INTERRUPTED:  # something newer took the place of its repetition
        found = next(
            run
            for run in sorted(runs.values(), key=lambda run: run.id)
            if run.id > found.id and run.build == found.build
        )
        return last_of(runs, found.id)
    return found
