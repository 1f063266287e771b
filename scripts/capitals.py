"""Writes the items of the suite `capitals` from the quiz files of Debian's package bsdgames.

    apt-get download bsdgames && dpkg-deb -x bsdgames_*.deb x
    .venv/bin/python scripts/capitals.py x/usr/share/games/bsdgames/quiz

The same files give the same bytes. recipes/suites/capitals/README.md says what becomes of them.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

TARGET = Path(__file__).parents[1] / "recipes/suites/capitals/capitals.jsonl"
FILES = ("africa", "america", "asia", "europe")
SEED = 1
WRONG = 3
"""Wrong capitals beside the right one."""

_ONE_OF = re.compile(r"\[([^][]*)\]")
_MAY_BE = re.compile(r"\{([^{}]*)\}")


def main() -> None:
    """Write the items of the quiz files in the folder that the command line names."""
    pairs = dict(_pairs(Path(sys.argv[1])))
    chance = random.Random(SEED)  # noqa: S311 - the same choice every time is what is wanted
    lines = [json.dumps(item, ensure_ascii=False) + "\n" for item in _items(pairs, chance)]
    TARGET.write_text("".join(lines), encoding="utf-8")


def _pairs(folder: Path) -> Iterator[tuple[str, str]]:
    """Countries and their capitals: of several names a country's longest, and a capital's first."""
    for name in FILES:
        for line in (folder / name).read_text(encoding="utf-8").splitlines():
            country, capital = map(_spelled, line.split(":"))
            yield max(country, key=len), capital[0]


def _spelled(pattern: str) -> list[str]:
    """The names for which a pattern of quiz(6) stands, each in one spelling.

    Of `[...|...]` that is the first part of letters alone, where accents are signs beside a letter. What may be there,
    `{...}`, is, unless it has no letters.
    """
    while found := _ONE_OF.search(pattern) or _MAY_BE.search(pattern):
        parts = found[1].split("|")
        plain = [part for part in parts if part.replace(" ", "").isalpha()]
        kept = (plain or parts)[0] if found[0].startswith("[") else _named(parts[0])
        pattern = pattern[: found.start()] + kept + pattern[found.end() :]
    return pattern.split("|")


def _named(part: str) -> str:
    return part if any(map(str.isalpha, part)) else ""


def _items(pairs: dict[str, str], chance: random.Random) -> Iterator[dict[str, object]]:
    capitals = sorted(set(pairs.values()))
    for country, capital in sorted(pairs.items()):
        others = [name for name in capitals if name != capital]
        choices = [capital, *chance.sample(others, WRONG)]
        chance.shuffle(choices)
        yield {"country": country, "choices": choices, "answer": choices.index(capital)}


if __name__ == "__main__":
    main()
