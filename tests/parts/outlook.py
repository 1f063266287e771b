"""A listener's memory with something of everything in it, for those who look at its pages."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from packer.listener.records import EventState, Outcome, RunState
from packer.listener.store import Store
from registry.events.change import Change, Delivery

HOSTILE = "<script>alert(1)</script>\"'&{{7*7}}"
DIGEST = "sha256:" + "1a2b3c4d5e6f7089" * 4
BUILDS = ("mistral-7b", "smollm2", "qwen3-0.6b", "a-name-that-is-rather-long-because-somebody-likes-them-to-say-all")
REPORT = "<!doctype html><html lang='en'><style>p{color:teal}</style><p>Retained</p><svg width='9' height='9'></svg>"


def variants(*names: str, verdict: str = "retained") -> dict[str, Any]:
    """What came of a run that published these."""
    place = "registry.example.com:5000/models/smollm2-135m-instruct"
    return {
        "variants": {
            name: {
                "image": f"{place}@{DIGEST}",
                "modelpack": f"{place}@{DIGEST}",
                "tags": [f"v1-{name}" if name else "v1", "latest"],
                "verdict": verdict,
                "retention": 0.99345 - index / 100,
                "bytes": 158_234_112 * (index + 1),
                "report": True,
            }
            for index, name in enumerate(names)
        }
    }


def build_files(folder: Path) -> None:
    """Build files of which one is broken."""
    for name in (*BUILDS, "broken"):
        file = folder / "models" / name / "packer.yaml"
        file.parent.mkdir(parents=True)
        text = f"source: hf://acme/{name}\npublish: {{to: 'registry.example.com/models/{name}:v1'}}\n"
        file.write_text("sorce: hf://acme/broken\n" if name == "broken" else text)


def fill(store: Store, folder: Path) -> dict[str, int]:
    """Events and runs of every kind; returns the numbers of some."""
    build_files(folder)
    now = time.time()
    change = Change(
        "model", "HuggingFaceTB/SmolLM2-135M-Instruct@main", revision="12fd25f77366fa6b3b4b768ec3050bf629380bac"
    )
    base = Change("artifact", "registry.example.com/base/busybox:1.37", digest=DIGEST)
    found: dict[str, int] = {}

    def event(kind: str, what: Change, at: float, state: EventState | None, why: str = "", *builds: str) -> int:
        number, _ = store.accept(f"/hooks/{kind}", kind, Delivery(f"{kind} {at}", (what,)), at)
        if state:
            store.route(number, state, why, dict.fromkeys(builds, at), 0)
        return number

    def run(build: str, at: float, outcome: Outcome | None, again: float | None = None) -> int:
        started = store.start("here", at)
        assert started and started.build == build, started
        store.tell(started.id, at, changed=("source: main 12fd25f77366 -> main 9e1a07c4b3d2",))
        if outcome:
            store.finish(started, outcome, at + 431, again)
        return started.id

    released = Outcome(RunState.RELEASED, 0, (), variants("fp8", "int8"))
    event("huggingface", change, now - 90_000, EventState.MATCHED, f"model {change.reference}", "smollm2")
    found["released"] = run("smollm2", now - 89_990, released)
    event("distribution", base, now - 7300, EventState.MATCHED, f"artifact {base.reference}", "smollm2")
    run("smollm2", now - 7290, Outcome(RunState.UNCHANGED, 0))
    event("harbor", base, now - 3700, EventState.MATCHED, f"artifact {base.reference}", BUILDS[3])
    said = variants("", verdict="lost")
    said["variants"][""] |= {"retention": 0.931, "image": None, "modelpack": None, "tags": [], "bytes": None}
    refused = Outcome(RunState.REFUSED, 4, (), said, "it lost too much: perplexity keeps 93.1 %")
    run(BUILDS[3], now - 3690, refused)
    event("zot", base, now - 600, EventState.OWN, "smollm2 published it")
    event("dockerhub", base, now - 300, EventState.IGNORED, "nothing that is built here is made of it")
    event("plain", Change("build", "qwen3-0.6b"), now - 200, EventState.MATCHED, "build qwen3-0.6b", "qwen3-0.6b")
    error = "registry.example.com: the registry did not answer within 60 s"
    found["failed"] = run("qwen3-0.6b", now - 199, Outcome(RunState.FAILED, 5, (), None, error), now + 42)
    many = tuple(Change("artifact", f"registry.example.com/base/{n}:v{n}") for n in ("a", "b", "c", "d", "e"))
    number, _ = store.accept("/hooks/quay", "quay", Delivery(None, many), now - 50)
    store.route(number, EventState.MATCHED, "artifact", {"mistral-7b": now - 50}, 0)
    found["running"] = run("mistral-7b", now - 45, None)
    store.tell(
        found["running"], now, step={"stage": "publish", "bytes": 1_288_490_188, "of": 4_402_341_478, "text": "fp8"}
    )
    found["event"] = event("huggingface", Change("model", f"acme/{HOSTILE}@main"), now - 2, None)
    _logs(folder / "runs", found)
    return found


def _logs(logs: Path, found: dict[str, int]) -> None:
    for variant in ("fp8", "int8"):
        place = logs / str(found["released"]) / "report" / variant
        place.mkdir(parents=True)
        (place / "report.html").write_text(REPORT)
    said = [
        {"event": "started", "stage": "fetch", "bytes": 4_402_341_478},
        {"event": "note", "what": f"{HOSTILE} is a strange name"},
        {"event": "started", "stage": "publish"},
        {
            "event": "error",
            "what": "the registry did not answer",
            "subject": "registry.example.com",
            "hint": "try again",
        },
    ]
    text = "".join(json.dumps(line) + "\n" for line in said) + "\x1b[31mred\x1b[0m and \x07bell\n"
    for name in ("released", "failed", "running"):
        (logs / f"{found[name]}.log").write_text(text * 40)
