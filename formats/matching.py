"""Names of modules as compressed-tensors lists them in `targets` and `ignore`: whole names, and patterns after `re:`.

The patterns come with the model, so that each is asked only while its worst case is bearable.
https://github.com/vllm-project/compressed-tensors, utils/match.py: match_name
"""

from __future__ import annotations

import re
import warnings

MAX_PATTERN = 200
"""Characters of a pattern."""

MAX_PATTERNS = 64
"""Patterns of one list; of more, none is asked."""

MAX_STEPS = 20_000_000
"""Steps that the patterns of all lists may take together, in the worst case: less than a second."""

_PATTERN = "re:"
_NESTED = re.compile(r"\)[*+{]|\(\?[^:!=<]|\\[1-9]")
"""What makes a pattern cost more than is counted, or mean something else: a repeated group, a flag, a reference."""


class Names:
    """A list of names and patterns, which may take so many `steps`; what is no text in it is passed over."""

    def __init__(self, listed: object, steps: int = MAX_STEPS) -> None:
        texts = [text for text in listed if isinstance(text, str)] if isinstance(listed, list) else []
        self.whole = frozenset(text for text in texts if not text.startswith(_PATTERN))
        """The names, of modules and of classes, such as `Linear`."""
        patterns = dict.fromkeys(text.removeprefix(_PATTERN) for text in texts if text.startswith(_PATTERN))
        few = patterns if len(patterns) <= MAX_PATTERNS else [""]
        self._patterns = [(_compiled(text), *_cost(text)) for text in few]
        self._left = steps

    def match(self, name: str) -> bool | None:
        """Whether the list has the name; None if no pattern that could be asked has it, and one could not be."""
        if name in self.whole:
            return True
        unknown = False
        for pattern, repeats, ways in self._patterns:
            steps = ways * max(len(name), 2) ** repeats
            if not pattern or steps > self._left:
                unknown = True
                continue
            self._left -= steps
            if pattern.match(name):
                return True
        return None if unknown else False


def _cost(pattern: str) -> tuple[int, int]:
    """How often something is repeated in a pattern, and in how many ways it may be gone through besides."""
    choices = pattern.count("|") + pattern.count("?")
    return sum(map(pattern.count, "*+{")), 1 << min(choices, 64)


def _compiled(pattern: str) -> re.Pattern[str] | None:
    """The pattern; None if it is none, or one whose cost is not known."""
    if not 0 < len(pattern) <= MAX_PATTERN or _NESTED.search(pattern):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return None
