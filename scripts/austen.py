"""Makes the text of the suite `fidelity`: python -m scripts.austen prideandprejudice.txt > pride-and-prejudice.txt.

The text is in guidellm 0.3.0 (`guidellm/data/prideandprejudice.txt.gz`). What the edition of 1894 added (captions of
pictures, marks of emphasis) is left out, and lines are joined to paragraphs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def clean(text: str) -> str:
    """The novel, a paragraph a line, with an empty line between two."""
    text = re.sub(r"\[Illustration(?:[^\[\]]|\[[^\[\]]*\])*\]", "", text.replace("\r", ""))
    paragraphs = (" ".join(part.split()).replace("_", "") for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(part for part in paragraphs if part) + "\n"


if __name__ == "__main__":
    sys.stdout.write(clean(Path(sys.argv[1]).read_text(encoding="utf-8")))
