"""docs/container.md builds packer's image: `make test-slow`."""

from __future__ import annotations

import pytest

from tests.consume.test_image import PAGE
from tests.parts.image import rebuilt


@pytest.mark.parametrize("at", [0, 1])
def test_the_page_builds_this_image(at: int) -> None:
    """The same image, on the tests' base and with its settings of pip; another name is all that the flags change."""
    words = PAGE[at].split()
    assert words[:2] == ["buildah", "build"]
    assert words[-1] == "."
    ours, theirs = rebuilt(*words[2:-1])
    assert theirs == ours
