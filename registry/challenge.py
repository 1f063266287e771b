"""Challenges: what a server wants in an `Authorization` (RFC 9110, section 11.6.1; RFC 6750; RFC 7617)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of the grammar
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_SCHEME = re.compile(rf"\s*({_TOKEN})(?:\s+|\s*,|$)")
_MAX = 8 << 10


@dataclass(frozen=True)
class Challenge:
    """One scheme, in lower case, and its parameters, whose names are in lower case."""

    scheme: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_challenges(header: str) -> list[Challenge]:
    """The challenges of one `WWW-Authenticate`; what does not follow the grammar ends the list."""
    challenges: list[Challenge] = []
    at, text = 0, header[:_MAX]
    while at < len(text):
        if challenges and (match := _PARAMETER.match(text, at)):
            name, quoted, plain = match.groups()
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            challenges[-1].parameters.setdefault(name.lower(), value)
        elif match := _SCHEME.match(text, at):
            challenges.append(Challenge(match[1].lower()))
        else:
            break
        at = match.end()
    return challenges
