"""What senders send, in `events/SENDER-WHAT.yaml`: read as it says, refused when damaged, believed when proven."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import WebhookPayload
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import ContentError, UsageError
from registry.events import ADAPTERS
from registry.events.change import Change, Delivery
from registry.events.payload import MAX_BODY
from registry.events.trust import DEFAULTS, Shared, Signature, Trust
from registry.reference import parse_reference
from tests.parts.command import ROOT

SECRET = b"It's a Secret to Everybody"
HELLO = b"Hello, World!"
HELLO_SIGNED = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
WRONG: tuple[object, ...] = (True, 7, -1.5, "\ud800", "a\nb", [], [[]], {}, {"": None})
DEEP = 10_000


@dataclass(frozen=True)
class Example:
    kind: str
    headers: dict[str, str]
    body: bytes
    expected: Delivery

    def read(self, body: bytes) -> Delivery | None:
        return judged(self.kind, self.headers, body)


@cache
def examples() -> dict[str, Example]:
    found = {}
    for path in sorted((Path(__file__).parent / "events").glob("*.yaml")):
        document = yaml.safe_load(path.read_text())
        changes = tuple(Change(**change) for change in document["changes"])
        found[path.stem] = Example(
            path.stem.partition("-")[0],
            document["headers"],
            document["body"].strip().encode(),
            Delivery(document["identity"], changes),
        )
    return found


def one(kind: str) -> Example:
    """An example of a kind, with a change."""
    return next(example for example in examples().values() if example.kind == kind and example.expected.changes)


def judged(kind: str, headers: dict[str, str], body: bytes) -> Delivery | None:
    """What the adapter makes of a request: a sane delivery, or None if it says in one line why it is none."""
    try:
        delivery = ADAPTERS[kind](headers, body)
    except ContentError as error:
        assert str(error).isprintable()
        assert " expected " in str(error) and "found " in str(error) and len(str(error)) < 300
        return None
    assert delivery.identity is None or (0 < len(delivery.identity) <= 200 and delivery.identity.isprintable())
    for change in delivery.changes:
        assert change.kind in ("artifact", "model", "dataset", "build")
        assert change.reference.isprintable() and 0 < len(change.reference) <= 700
        assert isinstance(change.digest, str | None) and isinstance(change.revision, str | None)
    return delivery


def paths(document: Any) -> Iterator[tuple[str | int, ...]]:
    """Where something stands in a document, at any depth."""
    members = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, member in members:
        yield (name,)
        yield from ((name, *rest) for rest in paths(member))


def at(document: Any, path: tuple[str | int, ...]) -> Any:
    for name in path:
        document = document[name]
    return document


def replaced(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    at(changed, path[:-1])[path[-1]] = value
    return changed


def known() -> set[str]:
    """The names of all members in all examples."""
    return {str(path[-1]) for example in examples().values() for path in paths(json.loads(example.body))}


NAMES = list(examples())
every_example = pytest.mark.parametrize("name", NAMES)
every_kind = pytest.mark.parametrize("kind", list(ADAPTERS))


@every_example
def test_an_example_is_what_it_says(name: str) -> None:
    example = examples()[name]
    assert ADAPTERS[example.kind](example.headers, example.body) == example.expected


@every_kind
def test_every_sender_has_an_example_with_a_change_that_names_a_place(kind: str) -> None:
    changes = [change for example in examples().values() if example.kind == kind for change in example.expected.changes]
    assert changes
    for change in changes:
        if change.kind == "artifact" and "." in change.reference.partition("/")[0]:
            assert str(parse_reference(change.reference)) == change.reference


@every_example
def test_a_part_of_a_body_is_refused(name: str) -> None:
    example = examples()[name]
    for at in range(50):
        assert example.read(example.body[: len(example.body) * at // 50]) is None


@every_example
def test_a_value_of_the_wrong_type_is_refused_or_not_looked_at(name: str) -> None:
    example = examples()[name]
    document = json.loads(example.body)
    refused = 0
    for path in paths(document):
        for wrong in WRONG:
            if type(wrong) is type(at(document, path)):
                continue
            delivery = example.read(json.dumps(replaced(document, path, wrong)).encode())
            assert delivery in (None, example.expected)
            refused += delivery is None
        example.read(json.dumps(replaced(document, path, None)).encode())
    assert refused or name.startswith(("github-ping", "zot-"))


@every_example
def test_a_text_that_is_no_name_is_refused_or_dropped(name: str) -> None:
    example = examples()[name]
    document = json.loads(example.body)
    for path in paths(document):
        for text in ("\ud800", "a\nb", "../..", "\u202e", "x" * 5000, "<script>", "-", "https://[", ""):
            example.read(json.dumps(replaced(document, path, text)).encode())


@every_example
def test_what_is_unknown_does_not_count(name: str) -> None:
    example = examples()[name]
    document = json.loads(example.body)
    for path in [(), *paths(document)]:
        if isinstance(at(document, path), dict):
            more = {**at(document, path), "something new": [{"a": [1.5, None, "\u00e9"]}]}
            assert example.read(json.dumps(replaced(document, path, more)).encode()) == example.expected


@every_kind
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"[{}]",
        b"{}",
        b"\xef\xbb\xbf{}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 1}}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\t"}',
        '{"a": 1}'.encode("utf-16"),
        b"a=1&payload=%7B%7D",
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'{"events":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"a": "' + b"x" * 10_000_000 + b'"}',
    ],
    ids=lambda body: f"{len(body)}-{body[:12]!r}",
)
def test_what_no_sender_sends_is_refused(kind: str, body: bytes) -> None:
    assert one(kind).read(body) is None


@every_kind
@pytest.mark.parametrize(
    "member",
    [
        b'"more": NaN',
        b'"more": -Infinity',
        b'"more": ' + b"9" * 5000,
        b'"more": 1, "more": 2',
        b'"more": {"a": 1, "a": 1}',
        b'"more": "\xff"',
        b'"more": "\t"',
        b'"more": ' + b"[" * DEEP + b"]" * DEEP,
        b'"more": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP,
        b'"more": "' + b"x" * MAX_BODY + b'"',
    ],
    ids=lambda member: f"{len(member)}-{member[:24]!r}",
)
def test_what_is_unknown_must_be_json_within_bounds(kind: str, member: bytes) -> None:
    example = one(kind)
    assert example.read(example.body[:-1] + b', "more": 1}') == example.expected
    assert example.read(example.body[:-1] + b", " + member + b"}") is None


@every_kind
def test_a_megabyte_is_read_whatever_it_holds(kind: str) -> None:
    example = one(kind)
    for filling in ('"' + "\\u00e9" * 150_000 + '"', "[" + "{}," * 300_000 + "{}]", "[" + "1e308," * 150_000 + "0]"):
        assert example.read(example.body[:-1] + b', "more": ' + filling.encode() + b"}") == example.expected


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("quay", {"docker_url": "quay.io/a/b", "updated_tags": [f"v{n}" for n in range(100_000)]}),
        ("distribution", {"events": [{}] * 300_000}),
        (
            "huggingface",
            {
                "event": {"scope": "repo.content"},
                "repo": {"type": "model", "name": "a/b"},
                "updatedRefs": [0] * 300_000,
            },
        ),
        ("dockerhub", {"repository": {"repo_name": "a-" * 250_000 + "!"}, "push_data": {"tag": "v1"}}),
        ("harbor", {"type": "x" * 900_000}),
    ],
)
def test_too_much_of_what_is_looked_at_is_refused_or_ignored(kind: str, body: dict[str, Any]) -> None:
    raw = json.dumps(body, separators=(",", ":")).encode()
    assert len(raw) <= MAX_BODY
    assert judged(kind, {}, raw) in (None, Delivery(None, ()))


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("distribution-push", ("events",)),
        ("distribution-push", ("events", 0, "action")),
        ("distribution-push", ("events", 0, "target", "repository")),
        ("harbor-push", ("type",)),
        ("harbor-push", ("event_data", "resources")),
        ("harbor-push", ("event_data", "repository", "repo_full_name")),
        ("harbor-cloudevents", ("source",)),
        ("harbor-cloudevents", ("data",)),
        ("quay-push", ("docker_url",)),
        ("github-registry-package", ("action",)),
        ("github-registry-package", ("registry_package",)),
        ("github-package", ("package", "name")),
        ("dockerhub-push", ("repository", "repo_name")),
        ("dockerhub-push", ("push_data", "tag")),
        ("zot-structured", ("id",)),
        ("zot-binary", ("name",)),
        ("artifactory-push", ("data", "image_name")),
        ("artifactory-push", ("data", "tag")),
        ("huggingface-commit", ("updatedRefs",)),
        ("huggingface-commit", ("repo", "name")),
        ("plain-build", ("build",)),
    ],
)
def test_what_must_be_there_must_be_there(name: str, path: tuple[str | int, ...]) -> None:
    example = examples()[name]
    document = json.loads(example.body)
    del at(document, path[:-1])[path[-1]]
    with pytest.raises(ContentError, match=f"{path[-1]}: expected .*, found nothing$"):
        ADAPTERS[example.kind](example.headers, json.dumps(document).encode())


def test_an_error_says_where_and_what_in_one_line() -> None:
    event = {
        "id": "1",
        "action": "push",
        "target": {"repository": 7, "tag": "v1", "mediaType": "application/vnd.oci.image.manifest.v1+json"},
    }
    with pytest.raises(ContentError, match=r"^events\[1\]\.target\.repository: expected text, found a number$"):
        ADAPTERS["distribution"]({}, json.dumps({"events": [{"action": "pull", "target": {}}, event]}).encode())
    with pytest.raises(ContentError, match=r"^the repository: expected lower case .*, found '<script>\\n\\u202e'$"):
        body = {"docker_url": "quay.io/<script>\n\u202e", "updated_tags": ["v1"]}
        ADAPTERS["quay"]({}, json.dumps(body).encode())
    with pytest.raises(ContentError, match=r"^the headers ce-\*\.source: expected text, found nothing$"):
        ADAPTERS["zot"]({"ce-type": "zotregistry.image.updated"}, b"{}")
    with pytest.raises(ContentError, match=r"^X-GitHub-Event: expected the name of an event, found nothing$"):
        ADAPTERS["github"]({}, b"{}")
    with pytest.raises(
        ContentError, match=r"^Content-Type: expected application/json .*, found 'application/x-www-form"
    ):
        ADAPTERS["github"](
            {"content-type": "application/x-www-form-urlencoded", "x-github-event": "ping"}, b"payload=%7B%7D"
        )


def test_what_another_domain_of_artifactory_calls_pushed_is_nothing() -> None:
    body = b'{"domain": "other", "event_type": "pushed", "data": {}}'
    assert ADAPTERS["artifactory"]({}, body) == Delivery(None, ())


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("huggingface-")])
def test_examples_of_the_hub_are_what_its_own_library_reads(name: str) -> None:
    payload = WebhookPayload.model_validate_json(examples()[name].body)
    assert payload.webhook.version == 3
    refs = payload.updatedRefs or []
    changed = [ref.newSha for ref in refs if ref.newSha] if payload.repo.type != "space" else []
    assert [change.revision for change in examples()[name].expected.changes] == changed


def test_the_same_delivery_has_the_same_identity_however_long_it_is() -> None:
    def sent(first: str) -> str | None:
        return ADAPTERS["distribution"]({}, json.dumps({"events": [event(first), event("b" * 300)]}).encode()).identity

    def event(name: str) -> dict[str, Any]:
        return {"id": name, "action": "pull", "target": {}}

    assert sent("a") == sent("a") != sent("c")
    assert str(sent("a")).startswith("sha256:")
    assert sent("") is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(sorted(known())), inner, max_size=6)
    ),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(list(ADAPTERS)),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "x-github-event", "ce-type", "ce-id", "ce-source"]), st.text()
    ),
    body=st.binary() | JSON.map(lambda value: json.dumps(value).encode()),
)
def test_anything_is_a_delivery_or_refused(kind: str, headers: dict[str, str], body: bytes) -> None:
    judged(kind, headers, body)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_anything_within_an_example_is_a_delivery_or_refused(data: st.DataObject) -> None:
    example = examples()[data.draw(st.sampled_from(NAMES))]
    document = json.loads(example.body)
    for _ in range(data.draw(st.integers(1, 3))):
        if reachable := list(paths(document)):
            document = replaced(document, data.draw(st.sampled_from(reachable)), data.draw(JSON))
    example.read(json.dumps(document).encode())


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_changed_bytes_are_a_delivery_or_refused(data: st.DataObject) -> None:
    example = examples()[data.draw(st.sampled_from(NAMES))]
    at = data.draw(st.integers(0, len(example.body)))
    example.read(
        example.body[:at] + data.draw(st.binary(max_size=8)) + example.body[at + data.draw(st.integers(0, 8)) :]
    )


# --- who may


def test_the_example_of_github_is_genuine() -> None:
    trust = Signature("X-Hub-Signature-256", SECRET)
    assert trust.judge({"x-hub-signature-256": HELLO_SIGNED}, HELLO)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, HELLO),
        ({"x-hub-signature-256": ""}, HELLO),
        ({"x-hub-signature-256": "sha256="}, HELLO),
        ({"x-hub-signature-256": HELLO_SIGNED.removeprefix("sha256=")}, HELLO),
        ({"x-hub-signature-256": HELLO_SIGNED[:-1] + "8"}, HELLO),
        ({"x-hub-signature-256": HELLO_SIGNED + " "}, HELLO),
        ({"x-hub-signature-256": "\ud800\u00e9"}, HELLO),
        ({"x-hub-signature": HELLO_SIGNED}, HELLO),
        ({"x-hub-signature-256": HELLO_SIGNED}, HELLO + b"\n"),
        ({"x-hub-signature-256": HELLO_SIGNED}, b"Hello, World?"),
        ({"x-hub-signature-256": HELLO_SIGNED}, b""),
        ({"x-hub-signature-256": "sha256=" + hmac.new(b"", HELLO, hashlib.sha256).hexdigest()}, HELLO),
        ({"x-hub-signature-256": "sha256=" + hmac.new(SECRET + b"x", HELLO, hashlib.sha256).hexdigest()}, HELLO),
        ({"x-hub-signature-256": SECRET.decode()}, HELLO),
    ],
)
def test_another_signature_is_not(headers: dict[str, str], body: bytes) -> None:
    assert not Signature("X-Hub-Signature-256", SECRET).judge(headers, body)


@pytest.mark.parametrize(
    "found",
    [None, "", "Bearer", "Bearer hook ", " Bearer hook", "bearer hook", "Bearer hoo", "\ud800", "Bearer hook\u00e9"],
)
def test_another_shared_secret_is_not(found: str | None) -> None:
    trust = Shared("Authorization", b"Bearer hook")
    assert trust.judge({"authorization": "Bearer hook"}, b"any")
    assert not trust.judge({} if found is None else {"authorization": found}, b"any")


@every_kind
def test_every_sender_proves_itself_by_default_or_cannot(kind: str) -> None:
    proof = DEFAULTS[kind]
    if proof is None:
        assert kind in ("quay", "dockerhub")
        return
    trust, other = proof.trust(SECRET), proof.trust(SECRET, "X-Other")
    sent = genuine(trust, HELLO)
    assert trust.judge({proof.header.lower(): sent}, HELLO)
    assert other.judge({"x-other": sent}, HELLO) and not other.judge({proof.header.lower(): sent}, HELLO)
    assert not proof.trust(b"another").judge({proof.header.lower(): sent}, HELLO)


def genuine(trust: Trust, body: bytes) -> str:
    signed = "sha256=" + hmac.new(SECRET, body, hashlib.sha256).hexdigest()
    return signed if isinstance(trust, Signature) else SECRET.decode()


def test_there_is_a_default_for_every_sender() -> None:
    assert set(DEFAULTS) == set(ADAPTERS)


@every_kind
def test_the_page_about_senders_tells_how_each_proves_itself(kind: str) -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{kind}` |"))
    told, proof = row.split("|")[2].strip(), DEFAULTS[kind]
    if proof is None:
        assert told == "none"
    else:
        way = "signature in `{}`" if proof.way is Signature else "`{}` is the secret"
        assert told == way.format(proof.header)
    assert f"\n## {kind}\n" in page


@pytest.mark.parametrize("trust", [Signature("A", SECRET), Shared("A", SECRET)])
def test_a_secret_is_in_no_text(trust: Trust) -> None:
    assert "Everybody" not in f"{trust!r} {trust} {trust:}"


@pytest.mark.parametrize("way", [Signature, Shared])
def test_a_secret_that_is_none_is_refused(way: type[Signature | Shared]) -> None:
    with pytest.raises(UsageError, match="empty"):
        way("A", b"")
    with pytest.raises(UsageError, match="header"):
        way("", SECRET)


@pytest.mark.parametrize("secret", [b"hush\n", b" hush", b"hush\x00", "h\u00fcsh".encode(), b"\xff"])
def test_a_secret_that_no_header_can_hold_is_refused_without_being_told(secret: bytes) -> None:
    with pytest.raises(UsageError, match="cannot be sent in a header") as raised:
        Shared("A", secret)
    assert "sh" not in str(raised.value) and repr(secret) not in repr(raised.value.__dict__)
    assert Signature("A", secret).judge({"a": "sha256=" + hmac.new(secret, HELLO, hashlib.sha256).hexdigest()}, HELLO)
