"""What the listener shows: to people in a browser, to Prometheus, and to programs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from packer.listener.records import EventState, Outcome, Run, RunState
from packer.listener.web.logs import MAX_LOG, log_of
from packer.listener.web.words import age, percent, span
from registry.events.change import Change, Delivery
from tests.parts.browser import Browser, browser
from tests.parts.command import packer
from tests.parts.listening import Listening, listening
from tests.parts.outlook import BUILDS, DIGEST, HOSTILE, REPORT, fill

SCHEMES = {"light": False, "dark": True}
LARGEST = 2**31 - 1
BEYOND = """
[...document.querySelectorAll('body *')].filter(element => element.getBoundingClientRect().right > innerWidth + 1)
    .map(element => element.outerHTML.slice(0, 80))
"""
CONTRASTS = """
(() => {
    const light = text => {
        const [red, green, blue] = text.match(/[\\d.]+/g).slice(0, 3).map(value => {
            const part = value / 255;
            return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const ground = element => {
        const own = element && getComputedStyle(element).backgroundColor;
        return !element ? 'rgb(255, 255, 255)' : own === 'rgba(0, 0, 0, 0)' ? ground(element.parentElement) : own;
    };
    const isText = node => node.nodeType === Node.TEXT_NODE && node.textContent.trim();
    return [...document.querySelectorAll('body *')].filter(element => [...element.childNodes].some(isText))
        .map(element => {
            const pair = [light(getComputedStyle(element).color), light(ground(element))];
            return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
        });
})()
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Listening, dict[str, int]]]:
    folder = tmp_path_factory.mktemp("listener")
    with listening(folder) as found:
        yield found, fill(found.store, folder)


@pytest.fixture
def filled(listener: tuple[Listening, dict[str, int]]) -> Listening:
    return listener[0]


@pytest.fixture
def numbers(listener: tuple[Listening, dict[str, int]]) -> dict[str, int]:
    return listener[1]


def pages(numbers: dict[str, int]) -> list[str]:
    runs = [f"/runs/{numbers[name]}" for name in ("released", "failed", "running")]
    builds = [f"/builds/{name}" for name in (*BUILDS[1:], "broken")]
    return ["/", "/events", "/runs", f"/events/{numbers['event']}", *runs, *builds]


@pytest.mark.parametrize("width", [360, 1600])
def test_a_browser_shows_every_page_narrow_and_wide_in_light_and_dark(
    chromium: Browser, filled: Listening, numbers: dict[str, int], width: int
) -> None:
    chromium.complaints.clear()
    chromium.requests.clear()
    for page in pages(numbers):
        grounds = set()
        for is_dark in SCHEMES.values():
            chromium.show(filled.url + page, width, is_dark=is_dark)
            assert chromium.value("document.documentElement.scrollWidth") == chromium.value("innerWidth") == width, page
            assert chromium.value(BEYOND) == [], page
            contrasts = chromium.value(CONTRASTS)
            assert len(contrasts) > 10 and min(contrasts) >= 4.5, (page, "text that is hard to read")
            grounds.add(chromium.value("getComputedStyle(document.body).backgroundColor"))
        assert len(grounds) == 2
    assert chromium.complaints == []
    assert {re.sub("data:.*", "", one).removeprefix(filled.url)[:8] for one in chromium.requests} <= {
        "", "/", "/events", "/events/", "/runs", "/runs/1", "/runs/4", "/runs/5", "/builds/", "/static/", "/stream"
    }  # fmt: skip


def test_a_browser_shows_what_to_do_where_there_is_nothing(chromium: Browser, tmp_path: Path) -> None:
    with listening(tmp_path) as found:
        chromium.complaints.clear()
        chromium.show(found.url, 360, is_dark=True)
        text = chromium.value("document.body.innerText")
        assert "No build file was found." in text and str(tmp_path / "models/*/packer.yaml") in text
        assert "/hooks/quay/…" in text and "Nobody has called yet." in text
        assert chromium.value("document.documentElement.scrollWidth") == 360
        chromium.show("about:blank", 360, is_dark=True)
    assert chromium.complaints == []


def seen(chromium: Browser, text: str) -> None:
    """Wait until the page has a text."""
    deadline = time.monotonic() + 60
    while text not in chromium.value("document.body.innerText"):
        assert time.monotonic() < deadline, f"the page never had {text}"
        time.sleep(0.1)


def test_an_open_page_follows_what_happens(chromium: Browser, tmp_path: Path) -> None:
    with listening(tmp_path) as found:
        chromium.complaints.clear()
        chromium.show(found.url, 1280, is_dark=False)
        seen(chromium, "live")
        chromium.value("window.isTheSame = true")
        found.store.accept(
            "/hooks/hf", "huggingface", Delivery(None, (Change("model", f"a/{HOSTILE}@main"),)), time.time()
        )
        seen(chromium, f"a/{HOSTILE}@main")
        fill(found.store, tmp_path)
        seen(chromium, "1.2 GiB of 4.1 GiB")
        run = found.store.running()[0]
        found.store.tell(run.id, time.time(), step={"stage": "publish", "bytes": 4 << 30, "of": 5 << 30})
        seen(chromium, "4.0 GiB of 5.0 GiB")
        assert chromium.value("document.querySelector('progress').position") == 0.8
        found.store.finish(run, Outcome(RunState.RELEASED, 0), time.time())
        seen(chromium, "0 running")
        assert chromium.value("window.isTheSame"), "the page was loaded again"
        assert chromium.value("document.scripts.length") == 1
        chromium.show("about:blank", 360, is_dark=True)
    assert chromium.complaints == []


def test_the_page_is_whole_without_scripts(chromium: Browser, filled: Listening) -> None:
    chromium.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.requests.clear()
        chromium.show(filled.url, 1280, is_dark=False)
        assert not [address for address in chromium.requests if address.endswith("/stream")]
    finally:
        chromium.ask("Emulation.setScriptExecutionDisabled", value=False)
    page = filled.ask("/").text
    for text in (
        "1.2 GiB of 4.1 GiB",
        "need attention",
        "sha256:1a2b3c4d5e6f",
        "99.34 %",
        '<meta http-equiv="refresh"',
    ):
        assert text in page


def test_names_are_text_wherever_they_stand(filled: Listening, numbers: dict[str, int]) -> None:
    for page in pages(numbers):
        text = filled.ask(page).text
        assert "<script>alert" not in text and "49@main" not in text, page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in filled.ask(f"/events/{numbers['event']}").text
    assert "&lt;script&gt;" in filled.ask(f"/runs/{numbers['failed']}").text


def test_the_overview_tells_how_everything_stands(filled: Listening, numbers: dict[str, int]) -> None:
    page = re.sub(r"(<[^>]+>|\s)+", " ", filled.ask("/").text.replace("<wbr>", ""))
    for text in (
        "3 builds need attention",
        "5 builds, 1 running, 1 waiting; 1 event not looked at yet.",
        "refused run",
        "it lost too much: perplexity keeps 93.1 % lost",
        "misconfigured",
        "the key 'sorce' is not known",
        "retrying next try in",
        "registry.example.com:5000/models/smollm2-135m-instruct:v1-fp8",
        "retained 99.34 % 150.9 MiB sent report",
        "24 h ago released",
        "own smollm2 published it",
        "and 2 more",
    ):
        assert text in page.replace("&#39;", "'"), text
    assert f'title="registry.example.com:5000/models/smollm2-135m-instruct@{DIGEST}"' in filled.ask("/").text


def test_a_report_is_one_click_away_and_may_do_nothing(
    filled: Listening, numbers: dict[str, int], tmp_path: Path
) -> None:
    number = numbers["released"]
    assert f'href="/runs/{number}/report/fp8"' in filled.ask("/").text
    answer = filled.ask(f"/runs/{number}/report/fp8")
    assert answer.text == REPORT and answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';") and "sandbox" in policy
    secret = filled.folder / "runs" / str(number) / "report.html"
    secret.write_text("not a report")
    (secret.parent / "report/int8/report.html").unlink()
    (secret.parent / "report/int8/report.html").symlink_to(secret)
    for variant in ("", "/", "/int8", "/nope", "/..", "/%2e%2e", "/..%2f..", "/fp8%00", "/fp8/", "/fp8%2freport.html"):
        found = filled.ask(f"/runs/{number}/report{variant}", Accept="text/html")
        assert found.status == 404 and "not a report" not in found.text, variant
    assert filled.ask(f"/runs/{numbers['failed']}/report").status == 404


def test_of_a_log_the_end_is_shown(filled: Listening, numbers: dict[str, int]) -> None:
    page = filled.ask(f"/runs/{numbers['failed']}").text
    assert "fetch     ... 4.1 GiB" in page
    assert "error: registry.example.com: the registry did not answer\n  next:     try again\n" in page
    assert "red and \ufffdbell" in page and "\x1b" not in page
    log = filled.folder / f"runs/{numbers['running']}.log"
    log.write_bytes(
        b'{"event": "finished", "stage": "fetch"}\n{"event": '
        + b"[" * 100_000
        + b"\n"
        + b"\xff\x00ab\rcd\n" * 1_000_000
    )
    answer = filled.ask(f"/runs/{numbers['running']}")
    assert answer.status == 200 and "are before this" in answer.text and len(answer.body) < 2 * MAX_LOG
    log.write_bytes(b'{"event": "finished", "stage": "fetch"}\n{"event": ' + b"[" * 100_000 + b"\n")
    assert "{&#34;event&#34;: &#34;finished&#34;" in filled.ask(f"/runs/{numbers['running']}").text


def test_a_log_is_for_people(tmp_path: Path) -> None:
    """What had changed and what was released are words; an error is told once, behind what led to it."""
    entry = {"name": "busybox", "value": "sha256:" + "1" * 64}
    error = {"what": "it is truncated", "subject": "a.gguf", "expected": "160 bytes", "found": "146 bytes"}
    block = "error: a.gguf: it is truncated\n  expected: 160 bytes\n  found:    146 bytes"
    said: list[dict[str, Any] | str] = [
        {"event": "check", "variant": "", "changed": []},
        {"event": "check", "variant": "", "changed": [{"kind": "base", "before": None, "after": entry}]},
        block,
        {"event": "started", "stage": "fetch"},
        {"event": "release", "image": "a@sha256:2", "modelpack": "a@sha256:3"},
        {"event": "error", **error},
        {"event": "interrupted"},
        {"event": "error", "variant": "b", **error},
        block.replace("error: ", "error: b: "),
    ]
    lines = (line if isinstance(line, str) else json.dumps(line) for line in said)
    (tmp_path / "1.log").write_text("\n".join(lines))
    shown, _ = log_of(tmp_path, Run(1, "a", "me", RunState.FAILED, 0, None, 0.0, 1.0, (), {}, {}, ""))
    assert shown.split("\n") == [
        "check     up to date",
        "changed   base: none -> busybox sha256:111111111111",
        "fetch     ...",
        "image     a@sha256:2",
        "modelpack a@sha256:3",
        *block.split("\n"),
        "interrupted",
        *block.replace("error: ", "error: b: ").split("\n"),
    ]


def test_a_browser_is_told_of_mistakes_in_a_page_and_a_program_in_a_line(filled: Listening) -> None:
    for path in (
        "/nowhere",
        "/runs/0",
        "/runs/77",
        "/runs/x",
        "/runs/1e3",
        f"/events/{'9' * 5000}",
        "/builds/%00",
        "/builds/%ed%a0%80",
        "/events?before=x",
        "/builds/",
        "/runs/%d9%a1",
    ):
        page = filled.ask(path, Accept="text/html,*/*;q=0.8")
        line = filled.ask(path)
        assert (page.status, line.status) == (404, 404), path
        assert "<!doctype html>" in page.text and list(line.document) == ["error"]


def test_metrics_tell_what_happened(filled: Listening, numbers: dict[str, int]) -> None:
    found = metrics(filled)
    assert found["packer_events_total", "kind=zot", "result=own"] == 1
    assert found["packer_events_total", "kind=huggingface", "result=matched"] == 1
    assert found["packer_builds_total", "build=smollm2", "result=released"] == 1
    assert found["packer_build_seconds_count", "build=smollm2", "result=unchanged"] == 1
    assert found["packer_build_seconds_sum", "build=smollm2", "result=released"] == 431
    assert found["packer_uploaded_bytes_total", "build=smollm2"] == 158_234_112 * 3
    assert found["packer_release_retention", "build=smollm2", "variant=int8"] == pytest.approx(0.98345)
    assert found["packer_release_timestamp_seconds", "build=smollm2"] == pytest.approx(
        time.time() - 89_990 + 431, abs=3600
    )
    assert (found["packer_queue_length",], found["packer_running",], found["packer_events_waiting",]) == (1, 1, 1)


def metrics(listener: Listening) -> dict[tuple[str, ...], float]:
    answer = listener.ask("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(answer.text)
    return {
        (one.name, *sorted(f"{key}={value}" for key, value in one.labels.items())): one.value
        for family in families
        for one in family.samples
    }


def test_counts_go_on_after_a_restart_and_when_things_are_forgotten(tmp_path: Path) -> None:
    with listening(tmp_path) as found:
        fill(found.store, tmp_path)
        found.ask("/hooks/plain", "POST", b"{}")
        found.send("github", b"{}", X_GitHub_Event="ping")
        before = metrics(found)
        assert before["packer_rejected_requests_total", "path=/hooks/plain", "reason=unauthorized"] == 1
        assert before["packer_events_total", "kind=github", "result=nothing"] == 1
    with listening(tmp_path) as found:
        assert found.store.forget(time.time()) > 3
        after = metrics(found)
    kept = {key: value for key, value in before.items() if "=nothing" not in key[-1] and "rejected" not in key[0]}
    assert after == kept


def test_a_program_gets_pages_of_the_same(filled: Listening) -> None:
    everything = filled.ask("/api/events?limit=500").document
    assert everything["before"] is None and len(everything["items"]) == 8
    collected, before = [], ""
    while True:
        page = filled.ask(f"/api/events?limit=3{before}").document
        collected += page["items"]
        if page["before"] is None:
            break
        before = f"&before={page['before']}"
    assert collected == everything["items"]
    assert [event["id"] for event in collected] == sorted((event["id"] for event in collected), reverse=True)
    builds = {build["name"]: build for build in filled.ask("/api/builds").document["items"]}
    assert {name: build["standing"] for name, build in builds.items()} == {
        "mistral-7b": "building",
        "smollm2": "up to date",
        "qwen3-0.6b": "retrying",
        BUILDS[3]: "refused",
        "broken": "misconfigured",
    }
    release = builds["smollm2"]["release"]
    assert release["variants"][0]["image"].endswith(DIGEST) and release["ended"].endswith("Z")
    assert builds["mistral-7b"]["running"]["step"] == {
        "stage": "publish",
        "text": "fp8",
        "bytes": 1_288_490_188,
        "of": 4_402_341_478,
    }
    assert [run["build"] for run in filled.ask("/api/runs?build=smollm2").document["items"]] == ["smollm2"] * 2
    for kind in ("events", "runs"):
        one = filled.ask(f"/api/{kind}?limit=1").document["items"][0]
        assert filled.ask(f"/api/{kind}/{one['id']}").document == one


@pytest.mark.parametrize("kind", ["events", "runs"])
def test_a_program_is_told_of_mistakes_in_a_line(filled: Listening, kind: str) -> None:
    for query in (
        "limit=0",
        "limit=501",
        "limit=x",
        "before=0",
        f"before={LARGEST + 1}",
        f"before={2**63}",
        f"limit={'9' * 5000}",
        "before=%00",
        "limit=1.5",
    ):
        answer = filled.ask(f"/api/{kind}?{query}")
        assert answer.status == 422 and list(answer.document) == ["error"] and answer.document["error"].isprintable(), (
            query
        )
    for number, status in (
        (LARGEST, 404),
        (LARGEST + 1, 422),
        (2**63, 422),
        (-1, 422),
        ("x", 422),
        ("9" * 5000, 422),
        ("%00", 422),
    ):
        answer = filled.ask(f"/api/{kind}/{number}")
        assert answer.status == status and list(answer.document) == ["error"], number
    assert filled.ask("/api/runs?build=%00").status == 422
    assert filled.ask("/api/runs?build=%ff%fe").document == {"items": [], "before": None}


def test_what_was_kept_wrongly_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    """Results of other runners, and names that are no text, break neither pages nor the API."""
    with listening(tmp_path) as found:
        number, _ = found.store.accept("/hooks/plain", "plain", Delivery(None, (Change("build", "x\u202e\x07"),)), 1.0)
        found.store.route(number, EventState.MATCHED, "because", {"x": 1.0}, 0)
        run = found.store.start("here", 2.0)
        assert run
        found.store.tell(run.id, 2.0, step={"stage": 7, "bytes": "many", "of": 0})
        paths = ("/", "/runs", f"/runs/{run.id}", "/builds/x", "/events", "/api/builds", "/api/runs", "/metrics")
        assert [found.ask(path).status for path in paths] == [200] * len(paths)
        said = {"variants": {"a": {"retention": "much"}, "b": {"image": "x", "tags": ["\x1b"]}, "c": {"report": None}}}
        found.store.finish(run, Outcome(RunState.RELEASED, 0, (), said, "two\nlines \x1b[31m"), 3.0)
        assert [found.ask(path).status for path in paths] == [200] * len(paths)
        assert "\x1b" not in found.ask("/").text + found.ask(f"/runs/{run.id}").text


def test_who_was_turned_away_is_on_the_overview(tmp_path: Path) -> None:
    """Where nothing comes for a wrong secret, that is what to look for."""
    with listening(tmp_path) as found:
        assert "Turned away" not in found.ask("/").text
        for _ in range(2):
            assert found.send("zot", b"{}", Authorization="wrong").status == 401
        page = " ".join(found.ask("/").text.split())
    assert "Turned away since the start: <code>/hooks/zot</code> 2 calls (unauthorized). </p>" in page


def test_a_failure_that_is_tried_again_tells_so(tmp_path: Path) -> None:
    """On its page, on that of its event, and by `packer events show`."""
    (tmp_path / "serve.yaml").write_text("{builds: [], state: .}")
    with listening(tmp_path) as found:
        number, _ = found.store.accept("/hooks/plain", "plain", Delivery(None, (Change("build", "x"),)), 1.0)
        found.store.route(number, EventState.MATCHED, "because", {"x": 1.0}, 0)
        first = found.store.start("here", 2.0)
        assert first
        found.store.finish(first, Outcome(RunState.FAILED, 5, error="it is away"), 3.0, 4.0)
        page = found.ask(f"/runs/{first.id}").text
        assert "Next try" in page and "Not known: it ended before that was found out." in page
        second = found.store.start("here", 4.0)
        assert second
        page = found.ask(f"/runs/{first.id}").text
        assert f'Repeated by</dt><dd><a href="/runs/{second.id}">' in page and "Next try" not in page
        found.store.finish(second, Outcome(RunState.UNCHANGED, 0), 5.0)
        assert f"run {second.id}</span>" in found.ask(f"/events/{number}").text
        assert '<p class="aside">Nothing.</p>' in found.ask(f"/runs/{second.id}").text
        shown = packer("events", "show", "--config", tmp_path / "serve.yaml", str(number)).stdout
    assert f"run {first.id}  x  failed  it is away" in shown
    assert f"run {second.id}  x  unchanged  repeats run {first.id}" in shown


def test_a_build_that_came_to_nothing_has_no_empty_place_for_it(tmp_path: Path) -> None:
    """One variant without a name is the build itself; of several it is told which came to nothing."""
    with listening(tmp_path) as found:
        for name, is_there in (("", False), ("int8", True)):
            number, _ = found.store.accept("/hooks/plain", "plain", Delivery(None, (Change("build", "x"),)), 1.0)
            found.store.route(number, EventState.MATCHED, "because", {"x": 1.0}, 0)
            run = found.store.start("here", 2.0)
            assert run
            came: dict[str, Any] = {"image": None, "modelpack": None, "tags": [], "verdict": None, "bytes": None}
            found.store.finish(run, Outcome(RunState.REFUSED, 3, (), {"variants": {name: came}}, "it is cut"), 3.0)
            page = found.ask(f"/runs/{run.id}").text
            assert ("What came of it" in page, "not published" in page) == (is_there, is_there)


def test_words() -> None:
    assert [age(value) for value in (0, 0.4, 42, 60, 3599, 3600, 172_799, 172_800, -5)] == [
        "now", "now", "42 s ago", "1 min ago", "59 min ago", "1 h ago", "47 h ago", "2 days ago", "in 5 s"
    ]  # fmt: skip
    assert [span(value) for value in (0.2, 59, 60, 431, 7500, 90_000, 200_000)] == [
        "under 1 s", "59 s", "1 min", "7 min 11 s", "2 h 5 min", "1 day 1 h", "2 days 7 h"
    ]  # fmt: skip
    assert [percent(value) for value in (1, 0.99345, 0.98999, 0.9, 0)] == [
        "100.00 %", "99.34 %", "98.99 %", "90.00 %", "0.00 %"
    ]  # fmt: skip
