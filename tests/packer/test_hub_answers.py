"""Hubs that refuse, and servers that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from packer.hub_answers import refused
from tests.parts import tiny
from tests.parts.command import packer
from tests.parts.hub import COMMIT, StrictHub

FILES = {"config.json": b"{}", "model.safetensors": tiny.GOOD}
PAGE = b"<!DOCTYPE html><title>Log in to the hotel's network</title>"
FETCH = ("build", "hf://acme/tiny", "--until", "fetch")
LOOK = ("validate", "hf://acme/tiny")


@pytest.fixture
def hub() -> StrictHub:
    return StrictHub(dict(FILES))


def model(**more: Any) -> bytes:
    return json.dumps({"id": "acme/tiny", "sha": COMMIT, **more}).encode()


def tree(**more: Any) -> bytes:
    return json.dumps([{"type": "file", "path": "a.safetensors", "size": 9, "oid": "1" * 40, **more}]).encode()


@pytest.mark.parametrize(
    ("part", "body", "found"),
    [
        ("/revision/", PAGE, "<!DOCTYPE html>"),
        ("/revision/", b"", "nothing"),
        ("/revision/", model()[:-9], "no JSON"),
        ("/revision/", b"[]", "another shape"),
        ("/revision/", b"{}", "JSON without 'id'"),
        ("/revision/", b"\xff\xfe\xfd", "another shape"),
        ("/revision/", b"[" * 100_000, "another shape"),
        ("/revision/", model(siblings=7), "another shape"),
        ("/revision/", model(siblings=[{"name": "a"}]), "JSON without 'rfilename'"),
        ("/revision/", model(sha=None), "the sha None"),
        ("/revision/", model(sha="../../etc"), "the sha '../../etc'"),
        ("/tree/", PAGE, "<!DOCTYPE html>"),
        ("/tree/", tree()[:-9], "no JSON"),
        ("/tree/", b'{"error": "later"}', "another shape"),
        ("/tree/", b"[7]", "another shape"),
        ("/tree/", b'[{"type": "file", "path": "a"}]', "JSON without 'size'"),
        ("/tree/", tree(size="9"), "'9'"),
        ("/tree/", tree(size=-9), "-9"),
        ("/tree/", tree(size=True), "True"),
        ("/tree/", tree(path=7), "the path 7"),
        ("/tree/", tree(path=["a"]), "the path ['a']"),
        ("/tree/", tree(path=""), "the path ''"),
        ("/tree/", tree(oid=None), "None"),
        ("/tree/", tree(lfs=[7]), "another shape"),
        ("/tree/", tree(lfs={"oid": "abc", "size": 9, "pointerSize": 1}), "'abc'"),
    ],
)
def test_answers_that_no_hub_gives(
    hub: StrictHub, environment: dict[str, str], part: str, body: bytes, found: str
) -> None:
    hub.instead[part] = (200, {"Content-Type": "application/json"}, body)
    done = packer(*LOOK, env=environment, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (5, False), done.stderr
    told = done.stdout + done.stderr
    host = environment["HF_ENDPOINT"].removeprefix("http://")
    assert f"{host}: this is not what a Hugging Face Hub answers" in told
    assert found in next(line for line in told.splitlines() if "found:" in line)
    assert "expected:" in told and "check HF_ENDPOINT" in told


def test_a_page_instead_of_files(hub: StrictHub, environment: dict[str, str]) -> None:
    """A login page in the way of the listing, of the headers, and of the content."""
    page = (200, {"Content-Type": "text/html"}, PAGE)
    for part, told in (("/api/", "check HF_ENDPOINT"), ("/resolve/", "check HF_ENDPOINT"), ("/cdn/", "run it again")):
        hub.instead = {part: page}
        done = packer(*FETCH, env=environment, check=False)
        assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (5, True, False), done.stderr


def test_a_hub_without_siblings(hub: StrictHub, environment: dict[str, str]) -> None:
    """olah and others tell less; the tree is what counts."""
    hub.instead["/revision/"] = (200, {}, model())
    packer(*FETCH, env=environment)
    packer(*LOOK, env=environment)


def test_a_path_out_of_the_cache_is_refused_before_anything_is_fetched(
    hub: StrictHub, environment: dict[str, str]
) -> None:
    hub.instead["/tree/"] = (200, {}, tree(path="/tmp/a.safetensors"))
    for command in (FETCH, LOOK):
        done = packer(*command, env=environment, check=False)
        assert (done.returncode, "'/tmp/a.safetensors' is refused" in done.stdout + done.stderr) == (3, True)
    assert not any("/resolve/" in path for _, path, _ in hub.requests)


class Answer:
    """An answer as an HTTP library holds it, with what no server of the tests can send."""

    def __init__(self, url: str, **headers: str) -> None:
        self.status_code, self.headers, self.url = 500, headers, url


def test_what_a_hub_says_is_safe_to_print() -> None:
    error = refused(Answer("https://huggingface.co/x", **{"X-Error-Message": "no\x1b[31m\x9b2J way"}), "hf://acme/tiny")
    assert "no\ufffd[31m\ufffd2J way" in str(error)
    assert "\x1b" not in str(error)


def test_a_port_that_does_not_exist() -> None:
    error = refused(Answer("http://x:99999/"), "hf://acme/tiny")
    assert "x:99999, where the Hub keeps this file, refused" in str(error)


@pytest.mark.parametrize(
    ("status", "headers", "told"),
    [
        (401, {"X-Error-Code": "GatedRepo"}, "this model is gated|accept its terms on the Hub's page and set HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, "this model is gated|accept its terms on the Hub's page and set HF_TOKEN"),
        (403, {}, "does not let you read this|accept the model's terms on the Hub's page, and set HF_TOKEN"),
        (401, {}, "no such repository, or hides it from you|check the name, and HF_TOKEN"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "accept the token|a valid one"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no such repository, or hides it from you|check the name"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no such revision|check what stands after @"),
        (404, {"X-Error-Code": "EntryNotFound"}, "lists this file and does not have it|try again later"),
        (404, {}, "nothing of this name|check the name, the revision, and HF_TOKEN"),
        (500, {}, "the Hub refused|500 Internal Server Error|try again later"),
    ],
)
def test_refusals_read_the_same_when_files_are_fetched_and_when_they_are_looked_at(
    hub: StrictHub, environment: dict[str, str], status: int, headers: dict[str, str], told: str
) -> None:
    hub.instead["/resolve/"] = (status, headers, b"")
    for command in (FETCH, LOOK):
        done = packer(*command, env=environment, check=False)
        said = done.stdout + done.stderr
        assert (done.returncode, "Traceback" in said, "hf_secret" in said) == (5, False, False), said
        assert all(part in said for part in told.split("|")), said


def test_a_refusal_of_the_store_behind_the_hub_is_not_about_the_login(
    hub: StrictHub, environment: dict[str, str]
) -> None:
    hub.instead["/cdn/"] = (403, {}, b"<Error>AccessDenied</Error>")
    for command in (FETCH, LOOK):
        done = packer(*command, env=environment, check=False)
        said = done.stdout + done.stderr
        assert (done.returncode, "where the Hub keeps this file, refused" in said) == (5, True), said
        assert "HF_TOKEN" not in said
