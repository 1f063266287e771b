"""The outcome of a build as a page of Markdown, for the people who look at what a pipeline did."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from formats.text import printable
from packer.progress import human
from packer.scorecards import fetch_scorecard, render
from recipes.evaluation.report.verdict import headline
from recipes.evaluation.scorecard import Scorecard
from registry.access import Access
from registry.errors import PackerError, UsageError
from registry.manifest import parse_json_object

_AFTER_AN_ERROR = """No tag was moved, unless it failed while it was publishing: then the image's may have moved, and
the ModelPack manifest's not. Both name what is whole. Run it again when it is mended: nothing whole is done twice."""

MAX_RESULT = 16 << 20
"""Bytes of an outcome: one that holds a scorecard is as long as that."""


def read_result(path: Path) -> dict[str, Any]:
    """What `packer build --result-file` wrote, or `packer plan` or `packer rebuild --check` with `--json`; empty if
    that died before it could.

    `UsageError` if there is no such file.
    """
    if not path.is_file() or path.stat().st_size > MAX_RESULT:
        raise UsageError(
            "there is no outcome of a build", subject=str(path), hint="packer build MODEL --result-file FILE"
        )
    data = path.read_bytes()
    return parse_json_object(data, str(path)) if data else {}


def summary(document: Mapping[str, Any], access: Access) -> str:
    """The page: what was published and how good it is, or what went wrong.

    The scorecard of what was published is read from the registry; that it cannot be had is said on the page.
    """
    if document.get("event") == "variants":
        return "\n".join(summary(each, access) for each in document["variants"])
    name = _prose(document["variant"]) if "variant" in document else ""
    match document.get("event"):
        case "release":
            lines = _release(document, access)
        case "scorecard":
            lines = _refusal(document, name)
        case "check":
            lines = _up_to_date()
        case "error":
            lines = _error(document, name)
        case _:
            why = "The build ended before it could say why: see its log."
            lines = iter((f"## Nothing was published{f' of {name}' if name else ''}", "", why))
    return "\n".join(lines) + "\n"


def _release(document: Mapping[str, Any], access: Access) -> Iterator[str]:
    place, _, digest = str(document["image"]).rpartition("@")
    tags = [f"{place}:{tag}" for tag in document["tags"]]
    yield f"## {_code(tags[0])}"
    yield ""
    scorecard, why = _scorecard(document.get("scorecard"), access)
    if scorecard:
        yield from (f"**{_prose(headline(scorecard))}**", "")
    yield from ("| | |", "|---|---|")
    yield f"| image | {_code(tags[0])} |"
    yield f"| digest | {_code(digest)} |"
    if document["modelpack"]:
        yield f"| ModelPack | {_code(tags[1])} |"
        yield f"| its digest | {_code(str(document['modelpack']).rpartition('@')[2])} |"
    sent = f"{document['blobs_sent']} blobs, {human(document['bytes_sent'])} sent"
    yield f"| changed | {f'yes: {sent}' if document['changed'] else 'no: the tags named this already'} |"
    if scorecard:
        yield from ("", *_block(render(scorecard)))
    if why:
        yield from ("", *_block(f"The scorecard cannot be shown.\n{why}"))


def _scorecard(reference: str | None, access: Access) -> tuple[Scorecard | None, str]:
    """The scorecard that was published, or why it cannot be had."""
    if not reference:
        return None, ""
    try:
        return fetch_scorecard(reference, access)[0].scorecard, ""
    except PackerError as error:
        return None, str(error)


def _refusal(document: Mapping[str, Any], name: str) -> Iterator[str]:
    scorecard = Scorecard.from_json(document, "the outcome of the build")
    yield from (f"## Refused:{f' {name},' if name else ''} {scorecard.verdict}", "")
    yield from (f"**{_prose(headline(scorecard))}**", "")
    yield from ("Nothing was published, and no tag was moved.", "")
    yield from _block(render(scorecard))


def _up_to_date() -> Iterator[str]:
    yield from ("## Up to date", "")
    yield "Nothing that the release in the lock was made of has changed, and its tags name it still: nothing was built."


def _error(document: Mapping[str, Any], name: str) -> Iterator[str]:
    yield from (f"## Failed{f': {name}' if name else ''}", "")
    told = [
        f"{name + ':':<9} {document[name]}" for name in ("subject", "expected", "found", "hint") if name in document
    ]
    yield from _block("\n".join([str(document.get("what", "")), *told]))
    yield from ("", _AFTER_AN_ERROR)


def _code(text: str) -> str:
    """In a span of code, which nothing in it ends."""
    return f"`{printable(text).replace('`', '')}`"


def _prose(text: str) -> str:
    """With nothing in it that means something in Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", printable(text.replace("\u00a0", " ")))


def _block(text: str) -> Iterator[str]:
    """In a block of code with a fence that is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    yield f"{fence}text"
    yield from map(printable, text.split("\n"))
    yield fence
